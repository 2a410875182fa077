"""Where jobs are kept."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from services.influence.job import Job, JobState
from services.influence.job_summary import JobSummary
from services.influence.lease import Claim, Glance, Lease, ProgressNote


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
    are atomic. Where the database cannot be used methods raise ServiceError RESOURCE_PROBLEM (full, or out of
    something) or JOB_TABLE_UNAVAILABLE (away); a change that was on its way then may have been made or not.

    Several servers may share the table. Each runs the jobs that it has claimed, for as long as it renews their leases;
    time is that of the database, so clocks of servers do not matter.

    Attributes:
        shared: Whether other servers may use it at the same time.
    """

    @property
    def shared(self) -> bool: ...

    def create(
        self, job: Job, *, request: RequestKey | None, max_pending: int, max_pending_per_project: int = 0
    ) -> Job:
        """Keep a new job, or return the one that the same request has made before, as it is now.

        Of concurrent calls with one request exactly one keeps its job; all return that one.

        Raises:
            ServiceError: REQUEST_ID_REUSED when the request id came with another digest, JOB_NOT_FOUND when the job
                of this request was deleted, JOB_ALREADY_EXISTS when the name is taken, QUEUE_FULL when `max_pending`
                jobs are waiting, or `max_pending_per_project` of its project (0: no limit); metadata
                `retry_after_s` then says when there may be room.
        """
        ...

    def check_room(self, job: Job, *, max_pending: int, max_pending_per_project: int = 0) -> None:
        """Raise JOB_ALREADY_EXISTS or QUEUE_FULL as `create` would now, and keep nothing."""
        ...

    def find_request(self, request: RequestKey) -> Job | None:
        """The job that this request has made, if any. Raises as `create`."""
        ...

    def get(self, name: str) -> Job:
        """Raises ServiceError JOB_NOT_FOUND."""
        ...

    def replace(self, job: Job, *, lease: Lease | None = None) -> Job:
        """Store a changed job and return it with its next version. One that runs no more gives its lease back.

        Args:
            job: As it shall be, with the version that it was changed from.
            lease: Given by the server that runs the job, for all that only that one may say.

        Raises:
            LeaseLost: `lease` is not the newest claim of this job.
            StaleJob: `job.version` is not stored.
        """
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

    def fetch(self, uids: Collection[str]) -> tuple[Job, ...]:
        """Those of the jobs that there are, oldest first."""
        ...

    def ended_before(self, age_s: float, *, limit: int, besides: Collection[str] = ()) -> tuple[Job, ...]:
        """Jobs that ended more than `age_s` seconds ago, those of long ago first; none of those in `besides`."""
        ...

    def count(self, state: JobState) -> int:
        """How many jobs are in this state."""
        ...

    def summary(self) -> JobSummary:
        """How many jobs there are, and since when the first one waits."""
        ...

    def claim(
        self,
        owner: str,
        *,
        lease_s: float,
        now: datetime,
        max_running_per_project: int = 0,
        besides: Collection[str] = (),
    ) -> Claim | None:
        """Start the waiting job whose turn it is: the oldest of the project that has the fewest running.

        Args:
            owner: Id of the server that will run it.
            lease_s: Seconds until others may take it over, unless the lease is renewed.
            now: Its start time, for people.
            max_running_per_project: Running jobs of a project, on all servers; 0: no limit.
            besides: Uids of jobs that this server cannot take now.

        Returns:
            The job, RUNNING and stored; None when none waits that may start. Of concurrent calls one gets a job.
        """
        ...

    def take_over(self, owner: str, *, lease_s: float, besides: Collection[str] = ()) -> Claim | None:
        """Claim a RUNNING or CANCELLING job that nobody runs: its lease has expired, or is that of `owner`.

        Args:
            owner: Id of the server; it holds no other job than those in `besides`.
            lease_s: As in `claim`.
            besides: Uids of the jobs that it does hold.

        Returns:
            The job as it is, to be settled by the caller; None when there is none.
        """
        ...

    def renew(self, notes: Mapping[Lease, ProgressNote | None], *, lease_s: float) -> frozenset[Lease]:
        """Let leases end `lease_s` seconds from now, and keep what is told with them; returns those that are lost."""
        ...

    def look(self, uids: Collection[str]) -> Mapping[str, Glance]:
        """What may have changed of jobs, by uid, in one query; jobs that are gone are left out."""
        ...

    def close(self) -> None:
        """Let go of the database."""
        ...
