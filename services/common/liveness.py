"""Whether threads still do what they are given."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future

STUCK_S = 30.0
"""What waits longer for a thread waits for ever: calls of a database that is away give up sooner."""


class ThreadWatch:
    """Gives threads a task that is nothing, one at a time, and notes when it was done.

    Args:
        threads: The threads.
        what: Their name, for the message.
        stuck_s: After which they are taken for stuck.
        clock: Seconds, monotonic.
    """

    def __init__(
        self, threads: Executor, what: str, *, stuck_s: float = STUCK_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._threads, self._what, self._stuck_s, self._clock = threads, what, stuck_s, clock
        self._asked: Future[None] | None = None
        self._asked_at = 0.0

    async def check(self) -> str | None:
        """What is wrong. Never waits: it tells of the task that was given at an earlier check."""
        if self._asked is None or self._asked.done():
            self._asked_at = self._clock()
            try:
                self._asked = self._threads.submit(_nothing)
            except RuntimeError:  # shut down: the process is about to end
                return None
            await asyncio.sleep(0)
        waited = self._clock() - self._asked_at
        if not self._asked.done() and waited > self._stuck_s:
            return f"the threads of {self._what} have done nothing for {waited:.0f} s"
        return None


def _nothing() -> None:
    return
