"""One server at a time on a state folder."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from services.common.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def hold_state_dir(state_dir: Path) -> Iterator[None]:
    """Make the folder and hold its lock, which the kernel lets go of when this process ends, however it ends.

    Raises:
        ServiceError: RESOURCE_PROBLEM when another server holds it, or when it cannot be made or written.
    """
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ServiceError("RESOURCE_PROBLEM", f"state folder {state_dir} cannot be used: {error}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise ServiceError(
            "RESOURCE_PROBLEM",
            f"state folder {state_dir} is in use by another server: stop that one, or give this one a folder of "
            "its own (EIF_EMBEDDING_STATE_DIR)",
        ) from None
    finally:
        os.close(handle)
