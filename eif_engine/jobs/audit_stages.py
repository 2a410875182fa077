"""The stages of an audit, in their order, and the clock that times them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from eif_engine.audit_types import StageProgress
from eif_engine.types import Progress

AUDIT_STAGES = (
    "quality",
    "neighbors",
    "screen",
    "influence",
    "issues",
    "classes",
    "duplicates",
    "proof",
    "findings",
)
"""In this order; those that do not apply are passed at once."""


class Stages:
    """Reports and times stages.

    Args:
        progress: Called with (stage, units done, units in all).
    """

    def __init__(self, progress: StageProgress) -> None:
        self._progress = progress
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[Progress]:
        """Time a stage; gives the progress of its units."""
        if name not in AUDIT_STAGES:
            raise ValueError(f"{name!r} is not a stage of an audit")
        start, last = perf_counter(), (0, 1)
        self._progress(name, *last)

        def report(done: int, total: int) -> None:
            nonlocal last
            last = (done, total)
            self._progress(name, done, total)

        yield report
        self.seconds[name] = perf_counter() - start
        if last[0] < last[1]:
            report(last[1], last[1])
