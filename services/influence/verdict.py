"""From how a job process ended to what becomes of the job."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from services.common.errors import STATUS_BY_REASON
from services.influence.job import Job, JobError, JobOutput, JobState, cancelled, fail, run_again, succeed
from services.influence.limits import Breach
from services.influence.messages import CancelledMessage, FailedMessage, SucceededMessage
from services.influence.runner import ExitReport


def after_exit(job: Job, report: ExitReport, output: JobOutput | None, *, max_attempts: int, now: datetime) -> Job:
    """What a RUNNING or CANCELLING job becomes when its process has ended.

    Args:
        job: As it is stored.
        report: How the process ended.
        output: Its results, if its MANIFEST.json exists: that alone decides for success.
        max_attempts: Runs that may end in a kill from outside.
        now: The time.
    """
    if output is not None:
        return succeed(job, output, now)
    if job.state is JobState.CANCELLING:
        return cancelled(job, now)
    if report.breach is not None and not report.breach.again:
        return fail(job, _broken_limit(report.breach), now)
    if isinstance(report.last, FailedMessage):
        return fail(job, _failure(report.last), now)
    if report.breach is not None or _was_ended_from_outside(report):
        return _again_or_failed(job, report, max_attempts, now)
    return fail(job, _crash(report), now)


def after_restart(job: Job, output: JobOutput | None, *, now: datetime) -> Job:
    """What a RUNNING or CANCELLING job becomes whose server stopped, or starts again: that is no crash of the job."""
    if output is not None:
        return succeed(job, output, now)
    if job.state is JobState.CANCELLING:
        return cancelled(job, now)
    return run_again(job, now, crashed=False)


def after_takeover(job: Job, output: JobOutput | None, *, max_attempts: int, now: datetime) -> Job:
    """What a RUNNING or CANCELLING job becomes whose server let its lease expire: the job may be what killed it."""
    if output is not None or job.state is JobState.CANCELLING or job.crashes + 1 < max_attempts:
        again = after_restart(job, output, now=now)
        return replace(again, crashes=job.crashes + 1) if again.state is JobState.PENDING else again
    what = f"the server that ran the job was lost, the last of {job.crashes + 1} runs that ended from outside"
    return fail(job, JobError(reason="WORKER_CRASHED", message=what), now)


def _was_ended_from_outside(report: ExitReport) -> bool:
    """Killed, or told to stop, by somebody else: the kernel short of memory, or whoever runs this machine."""
    return isinstance(report.last, CancelledMessage) or (report.last is None and report.signal is not None)


def _again_or_failed(job: Job, report: ExitReport, max_attempts: int, now: datetime) -> Job:
    if job.crashes + 1 < max_attempts:
        return run_again(job, now, crashed=True)
    if report.breach is not None:
        return fail(job, _broken_limit(report.breach, crashes=job.crashes + 1), now)
    return fail(job, _crash(report, crashes=job.crashes + 1), now)


def _broken_limit(breach: Breach, *, crashes: int = 1) -> JobError:
    times = f" (the last of {crashes} times)" if crashes > 1 else ""
    return JobError(reason=breach.reason, message=f"{breach.message}{times}", metadata=breach.metadata)


def _failure(message: FailedMessage) -> JobError:
    reason = message.reason if message.reason in STATUS_BY_REASON else "INTERNAL"
    return JobError(reason=reason, message=message.message, metadata=message.metadata)


def _crash(report: ExitReport, *, crashes: int = 1) -> JobError:
    how, metadata = _how(report)
    times = f", the last of {crashes} times" if crashes > 1 else ""
    tail = f"; the end of its log:\n{report.log_tail}" if report.log_tail else "; its log is empty"
    return JobError(reason="WORKER_CRASHED", message=f"the job process {how}{times}{tail}", metadata=metadata)


def _how(report: ExitReport) -> tuple[str, dict[str, str]]:
    if isinstance(report.last, SucceededMessage):
        return "said that it succeeded, but there is no MANIFEST.json", {"exit_code": str(report.exit_code)}
    if report.signal is not None:
        hint = " (is the machine out of memory?)" if report.signal == "SIGKILL" else ""
        return f"was killed by {report.signal}{hint}", {"signal": report.signal}
    if report.last is not None:
        return "was told to stop by somebody else", {"exit_code": str(report.exit_code)}
    return f"ended with exit code {report.exit_code} and without a result", {"exit_code": str(report.exit_code)}
