"""A JobRunner around another that counts, times and traces what runs. The other knows nothing of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from services.common.observability import Observability
from services.common.traceparent import TraceParent
from services.common.tracing import Span, Tracing
from services.influence.job_folder import read_request, write_request
from services.influence.limits import LIMITS
from services.influence.messages import FailedMessage, Message, ProgressMessage, SucceededMessage, TotalsMessage
from services.influence.metrics import InfluenceMetrics
from services.influence.run_totals import RunTotals
from services.influence.runner import ExitReport, JobRunner, OnMessage
from services.influence.spec import JobRequest
from services.influence.stage_clock import StageClock


class ObservedRunner:
    """Measures job processes by what they say, and makes a span of each attempt.

    Args:
        runner: Runs them.
        metrics: Takes attempts, stages and what was done in them.
        totals: Takes what job processes tell of their work.
        tracing: The span of an attempt is a child of the call that created the job, and the parent of the spans of the
            job process.
    """

    def __init__(self, runner: JobRunner, *, metrics: InfluenceMetrics, totals: RunTotals, tracing: Tracing) -> None:
        self._runner, self._metrics, self._totals, self._tracing = runner, metrics, totals, tracing
        self._starting: dict[Path, bool] = {}
        self._left: set[Path] = set()

    async def run(self, folder: Path, on_message: OnMessage) -> ExitReport:
        self._starting[folder] = False
        try:
            request = await asyncio.to_thread(read_request, folder)
            span = self._begin(request)
            if span.place is not None:
                await asyncio.to_thread(write_request, folder, _within(request, span.place))
        finally:
            unwanted = self._starting.pop(folder)  # from here until the runner knows of it nobody else gets a turn
        report = ExitReport(asked_to_stop=True)
        try:
            if not unwanted:
                report = await self._run(folder, request, on_message)
        except asyncio.CancelledError:
            self._left.add(folder)
            raise
        finally:
            self._end(folder, span, report)
        return report

    def cancel(self, folder: Path) -> None:
        if folder in self._starting:
            self._starting[folder] = True
        else:
            self._runner.cancel(folder)

    def leave(self, folder: Path) -> None:
        self._left.add(folder)
        if folder in self._starting:
            self._starting[folder] = True
        else:
            self._runner.leave(folder)

    async def reap(self, folder: Path) -> None:
        await self._runner.reap(folder)

    async def _run(self, folder: Path, request: JobRequest, on_message: OnMessage) -> ExitReport:
        kind = request.spec.kind
        stages = StageClock(lambda stage, seconds: self._metrics.jobs.stage_ended(kind, stage, seconds))
        try:
            return await self._runner.run(folder, self._listener(folder, stages, on_message))
        finally:
            stages.stop()
            self._totals.forget(folder)

    def _listener(self, folder: Path, stages: StageClock, on_message: OnMessage) -> Callable[[Message], None]:
        def listen(message: Message) -> None:
            match message:
                case ProgressMessage():
                    stages.progress(message)
                case TotalsMessage():
                    self._totals.update(folder, message)
                    return
            on_message(message)

        return listen

    def _begin(self, request: JobRequest) -> Span:
        return self._tracing.start(
            f"job {request.spec.kind}",
            parent=TraceParent.parse(request.traceparent),
            attributes={"eif.job_uid": request.uid, "eif.job": request.name, "eif.attempt": request.attempt},
        )

    def _end(self, folder: Path, span: Span, report: ExitReport) -> None:
        outcome = outcome_of(report, left=folder in self._left)
        self._left.discard(folder)
        self._metrics.jobs.attempt_ended(outcome)
        error = report.last.reason if isinstance(report.last, FailedMessage) else outcome
        failed = outcome in {"failed", "crashed", "limit_exceeded"}
        span.end(error=error if failed else None, attributes={"eif.outcome": outcome})


def outcome_of(report: ExitReport, *, left: bool) -> str:
    """How an attempt ended: one of ATTEMPT_OUTCOMES. `left`: it was given up because this server stops."""
    if isinstance(report.last, SucceededMessage):
        return "succeeded"
    if isinstance(report.last, FailedMessage):
        return "failed"
    if report.breach is not None:
        return "limit_exceeded" if report.breach.reason in LIMITS else "crashed"
    if report.asked_to_stop:
        return "stopped" if left else "cancelled"
    return "crashed"


def _within(request: JobRequest, place: TraceParent) -> JobRequest:
    return request.model_copy(update={"traceparent": str(place)})


def observed(runner: JobRunner, metrics: InfluenceMetrics, observability: Observability) -> JobRunner:
    """The runner of a server, observed."""
    totals = RunTotals(metrics, observability.storage)
    return ObservedRunner(runner, metrics=metrics, totals=totals, tracing=observability.tracing)
