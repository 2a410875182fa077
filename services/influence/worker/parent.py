"""The parent holds the other end of standard input: when it closes, nobody is left to want the result."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

_STDIN = 0


def on_parent_death(act: Callable[[], None], *, handle: int = _STDIN) -> None:
    """Call `act` from a thread of its own once `handle` is at its end. It must end the process."""

    def wait() -> None:
        while _read(handle):
            pass
        act()

    threading.Thread(target=wait, name="parent", daemon=True).start()


def _read(handle: int) -> bytes:
    try:
        return os.read(handle, 4096)
    except OSError:  # closed, or not open for reading: there is no parent either way
        return b""
