"""How long the stages of a job take, from the progress that its process tells."""

from __future__ import annotations

import time
from collections.abc import Callable

from services.influence.messages import ProgressMessage


class StageClock:
    """Of one run of a job.

    Args:
        ended: Takes the name and the seconds of each stage that is over.
        clock: Seconds, monotonic.
    """

    def __init__(self, ended: Callable[[str, float], None], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._ended, self._clock = ended, clock
        self._stage: str | None = None
        self._since = 0.0

    def progress(self, message: ProgressMessage) -> None:
        """The process is in this stage now."""
        if message.stage != self._stage:
            self.stop()
            self._stage, self._since = message.stage, self._clock()

    def stop(self) -> None:
        """The process has ended, and so has its stage."""
        if self._stage is not None:
            self._ended(self._stage, self._clock() - self._since)
        self._stage = None
