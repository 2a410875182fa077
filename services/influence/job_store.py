"""Where jobs are kept."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from services.influence.job import Job, JobState


@dataclass(frozen=True, kw_only=True)
class RequestKey:
    """Makes a retried Create safe: the caller's id of the request, and a digest of what it asks for."""

    project: str
    request_id: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class JobPage:
    """Jobs, newest first, and where the next page starts; None on the last page."""

    jobs: tuple[Job, ...]
    next_position: int | None


class StaleJob(Exception):
    """The stored job is no longer the version that a change was made from, or is gone: read it again."""


class JobStore(Protocol):
    """The table of jobs. Synchronous and thread-safe.

    A method that returns has made its change durable: it survives a kill of the process and a loss of power. Changes
    are atomic. Where the database cannot be used methods raise ServiceError RESOURCE_PROBLEM and nothing has changed.
    """

    def create(self, job: Job, *, request: RequestKey | None, max_pending: int) -> Job:
        """Keep a new job, or return the one that the same request has made before, as it is now.

        Of concurrent calls with one request exactly one keeps its job; all return that one.

        Raises:
            ServiceError: REQUEST_ID_REUSED when the request id came with another digest, JOB_NOT_FOUND when the job
                of this request was deleted, JOB_ALREADY_EXISTS when the name is taken, QUEUE_FULL when `max_pending`
                jobs are waiting.
        """
        ...

    def check_room(self, job: Job, *, max_pending: int) -> None:
        """Raise JOB_ALREADY_EXISTS or QUEUE_FULL as `create` would now, and keep nothing."""
        ...

    def find_request(self, request: RequestKey) -> Job | None:
        """The job that this request has made, if any. Raises as `create`."""
        ...

    def get(self, name: str) -> Job:
        """Raises ServiceError JOB_NOT_FOUND."""
        ...

    def replace(self, job: Job) -> Job:
        """Store a changed job and return it with its next version. Raises StaleJob unless `job.version` is stored."""
        ...

    def delete(self, job: Job) -> None:
        """Forget a job. Raises StaleJob unless `job.version` is stored. Its request stays known."""
        ...

    def list(
        self, project: str, *, states: Collection[JobState] = (), limit: int, before: int | None = None
    ) -> JobPage:
        """Jobs of a project, newest first, in any of `states` (empty: all), from `before` of the page before on."""
        ...

    def oldest(self, state: JobState) -> Job | None:
        """The job that has been in the table longest among those in this state."""
        ...

    def active(self) -> tuple[Job, ...]:
        """Every job that is RUNNING or CANCELLING, oldest first."""
        ...

    def count(self, state: JobState) -> int:
        """How many jobs are in this state."""
        ...

    def close(self) -> None:
        """Let go of the database."""
        ...
