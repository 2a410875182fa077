"""The whole system as a user starts it: `eif serve all`, over a small world of real objects."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.cli import COMMAND, environment, interruptible
from tests.job_world import JobWorld
from tests.onnx_bundles import write_bundle

START_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class System:
    """Running services, and files they may read.

    Attributes:
        process: `eif serve`.
        influence: `host:port`; empty when that service was not asked for.
        embedding: The same.
        files: Holds `model/`, `onnx/`, `train.jsonl`, `test.jsonl` and their images.
        data: What `eif serve` keeps.
    """

    process: subprocess.Popen[str]
    influence: str
    embedding: str
    files: Path
    data: Path

    @property
    def variables(self) -> dict[str, str]:
        """What tells `eif` where the services are."""
        return {"EIF_TARGET": self.influence, "EIF_EMBEDDING_TARGET": self.embedding}

    def uri(self, name: str) -> str:
        return f"file://{self.files}/{name}"


def make_files(folder: Path) -> Path:
    """A model bundle, its ONNX twin by name only, manifests and images."""
    world = JobWorld(folder)
    world.bundle()
    world.manifest("train.jsonl", world.samples("train", 30))
    world.manifest("test.jsonl", world.samples("test", 18))
    write_bundle(folder / "objects" / "onnx")
    return folder / "objects"


@contextmanager
def running_system(folder: Path, *, which: str = "all", files: Path | None = None) -> Iterator[System]:
    """`eif serve` on free ports, stopped by Ctrl-C at the end."""
    files = files or make_files(folder / "world")
    data = folder / "data"
    process = start_serve(which, "--data", str(data), "--file-root", str(files), cwd=folder)
    try:
        printed = read_until(process, "Ctrl-C stops")
        addresses = {line.split()[0]: line.split()[2] for line in printed if " service " in line}
        yield System(
            process=process,
            influence=addresses.get("influence", ""),
            embedding=addresses.get("embedding", ""),
            files=files,
            data=data,
        )
    finally:
        stop(process)


def start_serve(*arguments: str, cwd: Path, listen: str = "127.0.0.1:0") -> subprocess.Popen[str]:
    """`eif serve` with its output in pipes."""
    ports = ["--listen", listen, "--embedding-listen", "127.0.0.1:0"]
    with interruptible():
        return subprocess.Popen(
            [*COMMAND, "serve", *arguments, *ports],
            env=environment(),
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def read_until(process: subprocess.Popen[str], last: str) -> list[str]:
    """Its lines up to the one that is `last`."""
    assert process.stdout is not None
    lines = []
    give_up = threading.Timer(START_SECONDS, process.kill)
    give_up.start()
    try:
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            if lines[-1] == last:
                return lines
    finally:
        give_up.cancel()
    raise AssertionError(f"eif serve ended with {process.wait()}: {lines}")


def stop(process: subprocess.Popen[str]) -> int:
    """Ctrl-C, and the exit code."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        return process.wait(60)
    finally:
        process.kill()
        _drain(process.stdout)


def _drain(output: IO[str] | None) -> None:
    if output is not None and not output.closed:
        output.read()
        output.close()
