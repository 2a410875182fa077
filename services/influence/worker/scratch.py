"""Scratch folders on machines that keep none for us: they go with their process, also one that is killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LOCK = ".lock"


@contextmanager
def scratch_folder(parent: Path | None = None) -> Iterator[Path]:
    """A new folder, removed at the end. Those that killed processes have left behind are removed first.

    Args:
        parent: Where such folders lie. None: in the temporary folder of the machine, one parent a user.
    """
    parent = parent or Path(tempfile.gettempdir()) / f"eif-scratch-{os.geteuid()}"
    parent.mkdir(mode=0o700, exist_ok=True)
    _remove_left(parent)
    folder = Path(tempfile.mkdtemp(dir=parent))
    handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def _remove_left(parent: Path) -> None:
    for lock in parent.glob(f"*/{_LOCK}"):
        try:
            handle = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)
        except BlockingIOError:
            pass  # its process lives
        finally:
            os.close(handle)
