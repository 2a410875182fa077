"""One server at a time on a state folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.common.errors import ServiceError

LOCK_NAME = "lock"


@contextmanager
def hold_state_dir(state_dir: Path) -> Iterator[None]:
    """Make the folder and hold its lock, which the kernel lets go of when this process ends, however it ends.

    Raises:
        ServiceError: RESOURCE_PROBLEM when another server holds it, or when it cannot be made or written.
    """
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(state_dir / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ServiceError("RESOURCE_PROBLEM", f"state folder {state_dir} cannot be used: {error}") from error
    try:
        _lock(handle, state_dir)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, state_dir: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(handle, 32, 0).decode(errors="replace").strip() or "unknown"
        raise ServiceError(
            "RESOURCE_PROBLEM",
            f"state folder {state_dir} is in use by another server (process {holder}): "
            "stop that one, or give this one a folder of its own (EIF_INFLUENCE_STATE_DIR)",
            process=holder,
        ) from None
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
