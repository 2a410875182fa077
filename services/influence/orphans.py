"""Job processes whose server died: they end by themselves, and nobody else works in their folder before they have."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from services.influence.worker.lock import LOCK_NAME

PID_NAME = "pid"

_POLL_S = 0.1

logger = logging.getLogger(__name__)


def remember_process(folder: Path, pid: int) -> None:
    """Note which process was started in a folder."""
    (folder / PID_NAME).write_text(f"{pid}\n")


async def reap_orphan(folder: Path, *, patience_s: float) -> None:
    """Wait until nobody holds the lock of a folder. After `patience_s`, kill the process that was started there."""
    deadline = time.monotonic() + patience_s
    while _is_locked(folder / LOCK_NAME):
        if time.monotonic() > deadline:
            _kill(folder)
            deadline = time.monotonic() + patience_s
        await asyncio.sleep(_POLL_S)


def _is_locked(path: Path) -> bool:
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _kill(folder: Path) -> None:
    """Kill the process group that was started for a folder, if its leader is still the process that it was."""
    with suppress(OSError, ValueError):
        pid = int((folder / PID_NAME).read_text())
        # Another process may have the number by now. Where there is no /proc to tell, the orphan is only waited for.
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if os.fsencode(folder) in arguments:
            logger.warning("job process %d of a dead server did not end: killing it", pid)
            os.killpg(pid, signal.SIGKILL)
