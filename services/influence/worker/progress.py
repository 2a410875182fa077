"""How far the job is: stages in their order, a few messages a second, and how long each stage took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Self

from eif_engine.types import Progress, no_progress
from services.influence.messages import ProgressMessage
from services.influence.worker.job_trace import JobTrace
from services.influence.worker.outbox import Send

INTERVAL_S = 0.2


class JobProgress:
    """Stages of a job.

    Args:
        stages: Their names, in order.
        send: Takes the messages.
        check: Called at every report, also those that are not sent; raises when the job is to stop.
        clock: Seconds, monotonic.
        trace: Takes the stages too.
    """

    def __init__(
        self,
        stages: Sequence[str],
        *,
        send: Send,
        check: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        trace: JobTrace | None = None,
    ) -> None:
        self._stages = tuple(stages)
        self._send = send
        self._check = check
        self._clock = clock
        self._trace = trace or JobTrace()
        self._sent_at = float("-inf")
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, *, unit: str, total: int = 0) -> Iterator[Progress]:
        """Run a stage; yields what its work calls with (done, total)."""
        index, started = self._stages.index(name), self._clock()
        last = (0, total)

        def report(done: int, total: int, *, now: bool = False) -> None:
            nonlocal last
            self._check()
            last = (done, total)
            if now or self._clock() - self._sent_at >= INTERVAL_S:
                self._emit(name, index, unit, last)

        report(0, total, now=True)
        with self._trace.stage(name):
            yield report
        self.seconds[name] = self._clock() - started
        report(*last, now=True)

    def _emit(self, name: str, index: int, unit: str, counts: tuple[int, int]) -> None:
        self._sent_at = self._clock()
        done, total = counts
        self._send(
            ProgressMessage(
                stage=name,
                done=done,
                total=total,
                unit=unit,
                stages_done=index,
                stages_total=len(self._stages),
            )
        )


class StageChain:
    """Stages that follow each other as a computation names them: each ends when the next begins.

    Args:
        progress: The job's.
        unit: Of what is counted.
    """

    def __init__(self, progress: JobProgress, *, unit: str) -> None:
        self._progress, self._unit = progress, unit
        self._stack = ExitStack()
        self._current: str | None = None
        self._report: Progress = no_progress

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._stack.__exit__(kind, error, trace)

    def report(self, stage: str, done: int, total: int) -> None:
        """Take the progress of a stage; a name that is new ends the stage before it."""
        if stage != self._current:
            self._stack.close()
            self._report = self._stack.enter_context(self._progress.stage(stage, unit=self._unit, total=total))
            self._current = stage
        self._report(done, total)
