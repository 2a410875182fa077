"""One attempt of a job at a time: a lock on a file of the job's folder that dies with its process."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

from services.common.errors import ServiceError

LOCK_NAME = "lock"
_POLL_S = 0.05


def take_lock(folder: Path, *, timeout_s: float, check: Callable[[], None]) -> int:
    """Take `<folder>/lock` for the life of this process: the kernel lets go of it when it ends, however it ends.

    Args:
        folder: The job's folder.
        timeout_s: How long an older attempt may take to end.
        check: Called while waiting; what it raises ends the wait.

    Returns:
        The file descriptor that holds it; closing it lets go.

    Raises:
        ServiceError: RESOURCE_PROBLEM when the older attempt still lives after `timeout_s`.
    """
    handle = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _acquire(handle, timeout_s=timeout_s, check=check)
    except BaseException:
        os.close(handle)
        raise
    return handle


def _acquire(handle: int, *, timeout_s: float, check: Callable[[], None]) -> None:
    deadline = time.monotonic() + timeout_s
    while not _try(handle):
        check()
        if time.monotonic() > deadline:
            raise ServiceError(
                "RESOURCE_PROBLEM",
                f"an older attempt of this job still runs after {timeout_s:g} s; "
                "end its process, then create the job again",
            )
        time.sleep(_POLL_S)


def _try(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
