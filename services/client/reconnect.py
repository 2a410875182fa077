"""How patient a stream is when its connection is lost."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Reconnect:
    """When to open a lost stream again, and when to give up.

    Attributes:
        first_delay: Seconds before the first try; doubled for each next one, and each with jitter.
        max_delay: Longest pause between two tries, in seconds.
        patience: Give up when nothing was heard for so many seconds.
        attempt_timeout: Deadline of one call, in seconds. A stream that takes longer goes on in another call, so that a
            server that hangs is noticed.
    """

    first_delay: float = 0.2
    max_delay: float = 5.0
    patience: float = 60.0
    attempt_timeout: float = 120.0

    def __post_init__(self) -> None:
        if not 0 < self.first_delay <= self.max_delay:
            raise ValueError(
                f"first_delay must be above 0 and at most max_delay, got {self.first_delay} and {self.max_delay}"
            )
        if self.patience < 0 or self.attempt_timeout <= 0:
            raise ValueError("patience must not be below 0, and attempt_timeout must be above 0")

    def delays(self) -> Iterator[float]:
        """Pauses before one try after the other: doubled up to `max_delay`, each between half and all of it."""
        delay = self.first_delay
        while True:
            yield delay * random.uniform(0.5, 1.0)
            delay = min(delay * 2, self.max_delay)
