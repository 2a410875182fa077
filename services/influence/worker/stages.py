"""A job from its request to its last message."""

from __future__ import annotations

import shutil
from pathlib import Path

from services.common.storage.base import ObjectStore
from services.common.storage.metered import MeteredStore
from services.common.traceparent import TraceParent
from services.common.tracing import Tracing
from services.influence.messages import CancelledMessage, SucceededMessage
from services.influence.spec import AuditSpec, ExplainSpec, JobRequest, JobSpec, RankSpec, RelabelSpec
from services.influence.worker import audit, explain, rank, relabel
from services.influence.worker.cancellation import Cancellation, Cancelled
from services.influence.worker.failure import failure_of
from services.influence.worker.job import Job
from services.influence.worker.job_trace import JobTrace
from services.influence.worker.outbox import LastMessage, Send
from services.influence.worker.progress import JobProgress
from services.influence.worker.settings import WorkerSettings
from services.influence.worker.totals import JobTotals, TotalsSender
from services.influence.worker.writer import existing_result, require_writable

STAGES = {"rank": rank.STAGES, "relabel": relabel.STAGES, "audit": audit.STAGES, "explain": explain.STAGES}
"""By kind of job."""


def run_job(
    request: JobRequest,
    *,
    store: ObjectStore,
    settings: WorkerSettings,
    scratch: Path,
    send: Send,
    cancellation: Cancellation,
    tracing: Tracing | None = None,
) -> LastMessage:
    """Run a job to its end, whatever that is.

    Args:
        request: What is asked for.
        store: The object store.
        settings: What the job may use.
        scratch: A folder of the job's own, emptied before and removed after.
        send: Takes progress, and what was done.
        cancellation: Stops the job.
        tracing: Takes its spans.

    Returns:
        How it ended. Nothing is raised but what ends a process.
    """
    totals, trace = JobTotals(), JobTrace(tracing, TraceParent.parse(request.traceparent))
    sender = TotalsSender(totals, send)
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        spec = request.spec
        job = Job(
            request=request,
            store=MeteredStore(store, totals.record, tracing=tracing, place=trace.storage_place),
            settings=settings,
            scratch=scratch,
            progress=JobProgress(STAGES[spec.kind], send=sender, check=cancellation.check, trace=trace),
            cancellation=cancellation,
            totals=totals,
        )
        with job:
            if done := existing_result(job):
                return done
            require_writable(job)
            return _run(job, spec)
    except Cancelled:
        return CancelledMessage()
    except Exception as error:  # noqa: BLE001  # the boundary of the job: every error becomes its last message
        return failure_of(error)
    finally:
        sender.flush()
        shutil.rmtree(scratch, ignore_errors=True)


def _run(job: Job, spec: JobSpec) -> SucceededMessage:
    match spec:
        case RankSpec():
            return rank.run_rank(job, spec)
        case RelabelSpec():
            return relabel.run_relabel(job, spec)
        case AuditSpec():
            return audit.run_audit_job(job, spec)
        case ExplainSpec():
            return explain.run_explain(job, spec)
