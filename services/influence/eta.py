"""How long a stage will still take, from how fast it went lately."""

from __future__ import annotations

from collections import deque

from services.influence.messages import ProgressMessage

WINDOW_S = 30.0
"""The rate is that of the last seconds: work that was cached goes fast first, and then does not."""

MIN_SPAN_S = 1.0
"""Nothing is told before."""


class Eta:
    """Expected time to the end of a stage."""

    def __init__(self) -> None:
        self._stage = ""
        self._points: deque[tuple[float, int]] = deque()

    def update(self, progress: ProgressMessage, now: float) -> float | None:
        """Seconds that are left, at the time `now` in seconds; None when it cannot be told."""
        if progress.stage != self._stage or (self._points and progress.done < self._points[-1][1]):
            self._stage = progress.stage
            self._points.clear()
        self._points.append((now, progress.done))
        while now - self._points[0][0] > WINDOW_S and now - self._points[1][0] >= MIN_SPAN_S:
            self._points.popleft()
        if progress.total <= 0 or progress.done >= progress.total:
            return 0.0 if progress.total > 0 else None
        return self._at_the_rate_of_the_window(progress.total - progress.done, now)

    def _at_the_rate_of_the_window(self, left: int, now: float) -> float | None:
        then, done_then = self._points[0]
        span, done = now - then, self._points[-1][1] - done_then
        if span < MIN_SPAN_S or done <= 0:
            return None
        return left * span / done
