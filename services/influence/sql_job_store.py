"""The table of jobs in an SQL database. What is particular to one is in `sqlite.py` and `postgres.py`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from services.common.errors import ServiceError
from services.influence.job import Job, JobState
from services.influence.job_store import JobPage, RequestKey, StaleJob
from services.influence.job_summary import JobSummary
from services.influence.job_tables import JOBS, LEASES, REQUESTS, DatabaseSeconds
from services.influence.lease import Claim, Glance, Lease, ProgressNote
from services.influence.migrate import migrate
from services.influence.sql_leases import claim_next, look, renew, require, settle, take_abandoned
from services.influence.sql_queue import refuse_without_room
from services.influence.sql_rows import (
    ACTIVE,
    NAMED,
    count_jobs,
    find_job,
    job_values,
    read_jobs,
    read_row,
    select_jobs,
)
from services.influence.sql_summary import summarize
from services.influence.sql_transactions import Transactions, Turn, translated


class SqlJobStore:
    """JobStore on an engine of `sqlite.py` or `postgres.py`."""

    def __init__(self, engine: sa.Engine) -> None:
        self.shared = engine.dialect.name != "sqlite"
        self._transactions = Transactions(engine)
        with translated():
            migrate(engine)

    def create(
        self, job: Job, *, request: RequestKey | None, max_pending: int, max_pending_per_project: int = 0
    ) -> Job:
        def work(connection: sa.Connection) -> Job:
            known = _find_request(connection, request) if request else None
            if known is not None:
                return known
            self._check_room(connection, job, max_pending, max_pending_per_project)
            connection.execute(sa.insert(JOBS).values(**job_values(job)))
            if request is not None:
                connection.execute(sa.insert(REQUESTS), _request_row(request, job))
            return job

        return self._transactions.run(work, turn=Turn.CREATE)

    def check_room(self, job: Job, *, max_pending: int, max_pending_per_project: int = 0) -> None:
        def work(connection: sa.Connection) -> None:
            self._check_room(connection, job, max_pending, max_pending_per_project)

        self._transactions.run(work, reads_only=True)

    def find_request(self, request: RequestKey) -> Job | None:
        return self._transactions.run(lambda connection: _find_request(connection, request), reads_only=True)

    def get(self, name: str) -> Job:
        row = self._transactions.first(NAMED, {"name": name})
        if row is None:
            raise ServiceError("JOB_NOT_FOUND", f"there is no job {name}; it may have been deleted", name=name)
        return read_row(row)

    def replace(self, job: Job, *, lease: Lease | None = None) -> Job:
        changed = replace(job, version=job.version + 1)

        def work(connection: sa.Connection) -> None:
            if lease is not None:
                require(connection, lease, job)
            update = sa.update(JOBS).where(*_stored(job)).values(**job_values(changed))
            _refuse_stale(connection.execute(update), job)
            settle(connection, changed)

        self._transactions.run(work)
        return changed

    def delete(self, job: Job) -> None:
        def work(connection: sa.Connection) -> None:
            _refuse_stale(connection.execute(sa.delete(JOBS).where(*_stored(job))), job)
            connection.execute(sa.delete(LEASES).where(LEASES.c.uid == job.uid))

        self._transactions.run(work)

    def list(
        self, project: str, *, states: Collection[JobState] = (), limit: int, before: int | None = None
    ) -> JobPage:
        query = select_jobs(JOBS.c.position).where(JOBS.c.project == project)
        if states:
            query = query.where(JOBS.c.state.in_([state.value for state in states]))
        if before is not None:
            query = query.where(JOBS.c.position < before)
        query = query.order_by(JOBS.c.position.desc()).limit(limit + 1)
        rows = self._transactions.run(lambda connection: connection.execute(query).all(), reads_only=True)
        jobs = tuple(map(read_row, rows[:limit]))
        return JobPage(jobs=jobs, next_position=rows[limit - 1].position if len(rows) > limit else None)

    def fetch(self, uids: Collection[str]) -> tuple[Job, ...]:
        query = select_jobs().where(JOBS.c.uid.in_(uids)).order_by(JOBS.c.position)
        return self._read(query)

    def oldest(self, state: JobState) -> Job | None:
        query = select_jobs().where(JOBS.c.state == state.value).order_by(JOBS.c.position).limit(1)
        return next(iter(self._read(query)), None)

    def active(self) -> tuple[Job, ...]:
        return self._read(select_jobs().where(JOBS.c.state.in_(ACTIVE)).order_by(JOBS.c.position))

    def ended_before(self, age_s: float, *, limit: int, besides: Collection[str] = ()) -> tuple[Job, ...]:
        query = select_jobs().where(JOBS.c.ended_at < DatabaseSeconds() - age_s, JOBS.c.uid.not_in(besides))
        return self._read(query.order_by(JOBS.c.ended_at).limit(limit))

    def count(self, state: JobState) -> int:
        return self._transactions.run(lambda connection: count_jobs(connection, [state.value]), reads_only=True)

    def summary(self) -> JobSummary:
        return self._transactions.run(summarize, reads_only=True)

    def claim(
        self,
        owner: str,
        *,
        lease_s: float,
        now: datetime,
        max_running_per_project: int = 0,
        besides: Collection[str] = (),
    ) -> Claim | None:
        def work(connection: sa.Connection) -> Claim | None:
            return claim_next(
                connection,
                owner,
                lease_s=lease_s,
                now=now,
                max_running_per_project=max_running_per_project,
                besides=besides,
            )

        return self._transactions.run(work, turn=Turn.CLAIM) if self._any([JobState.PENDING.value]) else None

    def take_over(self, owner: str, *, lease_s: float, besides: Collection[str] = ()) -> Claim | None:
        def work(connection: sa.Connection) -> Claim | None:
            return take_abandoned(connection, owner, lease_s=lease_s, besides=besides)

        return self._transactions.run(work) if self._any(ACTIVE, besides) else None

    def renew(self, notes: Mapping[Lease, ProgressNote | None], *, lease_s: float) -> frozenset[Lease]:
        return self._transactions.run(lambda connection: renew(connection, notes, lease_s=lease_s))

    def look(self, uids: Collection[str]) -> Mapping[str, Glance]:
        return self._transactions.run(lambda connection: look(connection, uids), reads_only=True)

    def close(self) -> None:
        self._transactions.close()

    def _check_room(self, connection: sa.Connection, job: Job, max_pending: int, max_pending_per_project: int) -> None:
        refuse_without_room(connection, job, max_pending=max_pending, max_pending_per_project=max_pending_per_project)

    def _read(self, query: sa.Select[Any]) -> tuple[Job, ...]:
        return self._transactions.run(lambda connection: read_jobs(connection, query), reads_only=True)

    def _any(self, states: Collection[str], besides: Collection[str] = ()) -> bool:
        """Whether there is anything to claim: servers ask often, and a read gets in nobody's way."""
        query = sa.select(JOBS.c.uid).where(JOBS.c.state.in_(states), JOBS.c.uid.not_in(besides)).limit(1)
        found = self._transactions.run(lambda connection: connection.execute(query).first(), reads_only=True)
        return found is not None


def _find_request(connection: sa.Connection, request: RequestKey) -> Job | None:
    key = (REQUESTS.c.project == request.project, REQUESTS.c.request_id == request.request_id)
    row = connection.execute(sa.select(REQUESTS).where(*key)).one_or_none()
    if row is None:
        return None
    if row.digest != request.digest:
        raise ServiceError(
            "REQUEST_ID_REUSED",
            f"request_id {request.request_id} was used before for another body, which made {row.job_name}; "
            "send a new request_id",
            request_id=request.request_id,
            job=row.job_name,
        )
    job = find_job(connection, JOBS.c.uid == row.job_uid)
    if job is None:
        raise ServiceError(
            "JOB_NOT_FOUND",
            f"request_id {request.request_id} made {row.job_name}, which was deleted since; send a new request_id",
            request_id=request.request_id,
            name=row.job_name,
        )
    return job


def _refuse_stale(result: sa.CursorResult[Any], job: Job) -> None:
    if result.rowcount != 1:
        raise StaleJob(job.name)


def _stored(job: Job) -> tuple[sa.ColumnElement[bool], ...]:
    return (JOBS.c.uid == job.uid, JOBS.c.version == job.version)


def _request_row(request: RequestKey, job: Job) -> dict[str, Any]:
    return {
        "project": request.project,
        "request_id": request.request_id,
        "digest": request.digest,
        "job_name": job.name,
        "job_uid": job.uid,
        "create_time": datetime.now(UTC),
    }
