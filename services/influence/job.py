"""A job and its states: every change of a job is one pure function here.

PENDING -----> RUNNING -----> SUCCEEDED | FAILED
   |   <-----     |
   |   (again)    v
   |          CANCELLING ---> CANCELLED | SUCCEEDED | FAILED
   +--------------------> CANCELLED | FAILED
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from services.influence.messages import ProgressMessage
from services.influence.result_manifest import ResultManifest, manifest_uri, result_folder
from services.influence.spec import Artifact, JobSpec


class JobState(StrEnum):
    """The states of a job, as in job.proto."""

    PENDING = "pending"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing can change any more."""
        return self in _ENDED

    @property
    def active(self) -> bool:
        """Whether a job process may be at work."""
        return self in {JobState.RUNNING, JobState.CANCELLING}


_ENDED = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})

NEXT_STATES: Mapping[JobState, frozenset[JobState]] = {
    JobState.PENDING: frozenset({JobState.RUNNING, JobState.CANCELLED, JobState.FAILED}),
    JobState.RUNNING: frozenset({JobState.PENDING, JobState.CANCELLING, JobState.SUCCEEDED, JobState.FAILED}),
    JobState.CANCELLING: frozenset({JobState.CANCELLED, JobState.SUCCEEDED, JobState.FAILED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}
"""Every change of state that there is."""


class TransitionRefused(Exception):
    """The job is not in a state from which this change is possible. A fault of the caller's code or a lost race."""


@dataclass(frozen=True, kw_only=True)
class JobError:
    """Why a job ended without results."""

    reason: str
    message: str
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class JobOutput:
    """The results: MANIFEST.json with its digest."""

    manifest_sha256: str
    manifest: ResultManifest


@dataclass(frozen=True, kw_only=True)
class Job:
    """An InfluenceJob.

    Attributes:
        name: `projects/{project}/influenceJobs/{influence_job}`.
        uid: Identifies it for ever.
        referred: What the spec points to in another job, resolved when this one was created (JobRequest.referred).
        traceparent: The call that created it, in its trace.
        attempt: The run it is in or waits for, from 1.
        crashes: Runs that ended in a crash.
        eta_s: Expected seconds to the end of the stage. Not stored.
        expire_time: When it will be deleted. Not stored: it follows from `end_time` and a setting.
        version: One more at each stored change.
    """

    name: str
    uid: str
    spec: JobSpec
    output_uri_prefix: str
    create_time: datetime
    update_time: datetime
    display_name: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    referred: Artifact | None = None
    traceparent: str | None = None
    state: JobState = JobState.PENDING
    attempt: int = 1
    crashes: int = 0
    progress: ProgressMessage | None = None
    eta_s: float | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    error: JobError | None = None
    output: JobOutput | None = None
    expire_time: datetime | None = None
    version: int = 1

    @property
    def etag(self) -> str:
        """Changes with every change of the job, its progress included."""
        progress = self.progress.model_dump_json() if self.progress else ""
        return hashlib.sha256(f"{self.uid} {self.version} {progress}".encode()).hexdigest()[:16]

    @property
    def folder_uri(self) -> str:
        """Where its results go."""
        return result_folder(self.output_uri_prefix, self.uid)

    @property
    def manifest_uri(self) -> str:
        """Where its MANIFEST.json is, once it has succeeded."""
        return manifest_uri(self.output_uri_prefix, self.uid)


def start(job: Job, now: datetime) -> Job:
    """Its process is about to be started."""
    return _move(job, JobState.RUNNING, now, start_time=now, progress=None)


def advance(job: Job, progress: ProgressMessage, eta_s: float | None, now: datetime) -> Job:
    """It has come further. Not a change of state, and not stored before the next one."""
    return replace(job, progress=progress, eta_s=eta_s, update_time=now)


def ask_to_cancel(job: Job, now: datetime) -> Job:
    """The caller wants it to stop: at once while it waits, soon while it runs; the same job again in other states."""
    if job.state is JobState.PENDING:
        return cancelled(job, now)
    if job.state is JobState.RUNNING:
        return _move(job, JobState.CANCELLING, now)
    return job


def succeed(job: Job, output: JobOutput, now: datetime) -> Job:
    """Its MANIFEST.json exists, which decides, also after a crash or a late cancel."""
    return _move(job, JobState.SUCCEEDED, now, end_time=now, output=output)


def fail(job: Job, error: JobError, now: datetime) -> Job:
    """It ended without results."""
    return _move(job, JobState.FAILED, now, end_time=now, error=error)


def cancelled(job: Job, now: datetime) -> Job:
    """It stopped because it was told to."""
    error = JobError(reason="JOB_CANCELLED", message="the job was cancelled")
    return _move(job, JobState.CANCELLED, now, end_time=now, error=error)


def run_again(job: Job, now: datetime, *, crashed: bool) -> Job:
    """Its run was cut off through no fault of its own: back to the queue, in its old place."""
    return _move(
        job,
        JobState.PENDING,
        now,
        attempt=job.attempt + 1,
        crashes=job.crashes + crashed,
        start_time=None,
        progress=None,
    )


def _move(job: Job, state: JobState, now: datetime, **changes: object) -> Job:
    if state not in NEXT_STATES[job.state]:
        raise TransitionRefused(f"{job.name} cannot go from {job.state} to {state}")
    return replace(job, state=state, update_time=now, eta_s=None, **changes)  # type: ignore[arg-type]  # by field name
