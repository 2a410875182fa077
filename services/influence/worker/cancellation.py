"""SIGTERM means cancel: the work stops at its next check, or the process does when no check comes in time.

The signal is blocked everywhere and taken by a thread that waits for it, so that it is seen also while another thread
is inside a long computation or a stalled read.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

GRACE_S = 1.0
COMMIT_GRACE_S = 10.0


class Cancelled(Exception):
    """The job was told to stop. No EifError: it is not a failure."""


class Cancellation:
    """Whether the job was told to stop, and from when on that is too late."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requested = threading.Event()
        self._committing = False
        self._ended = threading.Event()

    def request(self) -> None:
        """Ask the work to stop."""
        self._requested.set()

    def check(self) -> None:
        """Raise Cancelled when the work was asked to stop, and it is not too late for that."""
        if self._requested.is_set() and not self._committing:
            raise Cancelled

    def commit(self) -> None:
        """Pass the point of no return, before MANIFEST.json is written. Raises Cancelled when asked to stop before."""
        with self._lock:
            self.check()
            self._committing = True

    def end(self) -> bool:
        """Claim the right to send the last message; true for the first caller only."""
        with self._lock:
            first = not self._ended.is_set()
            self._ended.set()
            return first

    def wait_for_end(self) -> bool:
        """After a request: wait as long as the work may take to notice. False: it did not."""
        if self._ended.wait(GRACE_S):
            return True
        with self._lock:
            committing = self._committing
        return committing and self._ended.wait(COMMIT_GRACE_S)


def block_sigterm() -> None:
    """Leave SIGTERM to `cancel_on_sigterm`, and Ctrl-C to the parent. Called before any other thread starts."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def cancel_on_sigterm(cancellation: Cancellation, *, force: Callable[[], None]) -> None:
    """Take SIGTERM in a thread of its own.

    Args:
        cancellation: What the work checks.
        force: Called when the work has not ended in time: it must end the process.
    """

    def wait() -> None:
        signal.sigwait({signal.SIGTERM})
        cancellation.request()
        if not cancellation.wait_for_end() and cancellation.end():
            force()

    threading.Thread(target=wait, name="sigterm", daemon=True).start()
