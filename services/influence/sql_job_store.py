"""The table of jobs in an SQL database. What is particular to one is in `sqlite.py` and `postgres.py`."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar

import sqlalchemy as sa
from pydantic import TypeAdapter

from services.common.errors import ServiceError
from services.influence.job import Job, JobState
from services.influence.job_store import JobPage, RequestKey, StaleJob
from services.influence.job_tables import JOBS, REQUESTS
from services.influence.migrate import migrate
from services.influence.names import parse_job_name

_JOB: TypeAdapter[Job] = TypeAdapter(Job)

_T = TypeVar("_T")

_TRIES = 12
"""Of a transaction that others get in the way of; then they are too many."""
_CONFLICTS = frozenset({"40001", "40P01"})
"""SQLSTATE of a serialization failure and of a deadlock: nothing was changed, and the next try may get through."""


class SqlJobStore:
    """JobStore on an engine whose transactions are serializable and durable."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        with _translated():
            migrate(engine)

    def create(self, job: Job, *, request: RequestKey | None, max_pending: int) -> Job:
        def work(connection: sa.Connection) -> Job:
            known = _find_request(connection, request) if request else None
            if known is not None:
                return known
            _refuse_without_room(connection, job, max_pending)
            connection.execute(sa.insert(JOBS), _row(job))
            if request is not None:
                connection.execute(sa.insert(REQUESTS), _request_row(request, job))
            return job

        return self._transact(work)

    def check_room(self, job: Job, *, max_pending: int) -> None:
        self._transact(lambda connection: _refuse_without_room(connection, job, max_pending), reads_only=True)

    def find_request(self, request: RequestKey) -> Job | None:
        return self._transact(lambda connection: _find_request(connection, request), reads_only=True)

    def get(self, name: str) -> Job:
        job = self._transact(lambda connection: _find(connection, name), reads_only=True)
        if job is None:
            raise ServiceError("JOB_NOT_FOUND", f"there is no job {name}; it may have been deleted", name=name)
        return job

    def replace(self, job: Job) -> Job:
        changed = replace(job, version=job.version + 1)
        statement = sa.update(JOBS).where(*_stored(job)).values(**_row(changed))
        self._transact(lambda connection: _refuse_stale(connection.execute(statement), job))
        return changed

    def delete(self, job: Job) -> None:
        statement = sa.delete(JOBS).where(*_stored(job))
        self._transact(lambda connection: _refuse_stale(connection.execute(statement), job))

    def list(
        self, project: str, *, states: Collection[JobState] = (), limit: int, before: int | None = None
    ) -> JobPage:
        query = sa.select(JOBS.c.position, JOBS.c.document).where(JOBS.c.project == project)
        if states:
            query = query.where(JOBS.c.state.in_([state.value for state in states]))
        if before is not None:
            query = query.where(JOBS.c.position < before)
        query = query.order_by(JOBS.c.position.desc()).limit(limit + 1)
        rows = self._transact(lambda connection: connection.execute(query).all(), reads_only=True)
        jobs = tuple(_parse(row.document) for row in rows[:limit])
        return JobPage(jobs=jobs, next_position=rows[limit - 1].position if len(rows) > limit else None)

    def oldest(self, state: JobState) -> Job | None:
        query = sa.select(JOBS.c.document).where(JOBS.c.state == state.value).order_by(JOBS.c.position).limit(1)
        document = self._transact(lambda connection: connection.execute(query).scalar_one_or_none(), reads_only=True)
        return None if document is None else _parse(document)

    def active(self) -> tuple[Job, ...]:
        states = [state.value for state in JobState if state.active]
        query = sa.select(JOBS.c.document).where(JOBS.c.state.in_(states)).order_by(JOBS.c.position)
        documents = self._transact(lambda connection: connection.execute(query).scalars().all(), reads_only=True)
        return tuple(map(_parse, documents))

    def count(self, state: JobState) -> int:
        return self._transact(lambda connection: _count(connection, state), reads_only=True)

    def close(self) -> None:
        self._engine.dispose()

    def _transact(self, work: Callable[[sa.Connection], _T], *, reads_only: bool = False) -> _T:
        """Run a transaction; again where others got in its way, which changes nothing."""
        for _ in range(_TRIES):
            with (
                suppress(_ConflictError),
                _translated(),
                self._engine.connect() as connection,
                connection.execution_options(reads_only=reads_only).begin(),
            ):
                return work(connection)
            time.sleep(random.uniform(0.001, 0.02))
        raise ServiceError("RESOURCE_PROBLEM", "too many others change the job table now; nothing was changed")


class _ConflictError(Exception):
    """Others got in the way of a transaction; nothing of it remains."""


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sa.exc.TimeoutError as error:
        raise _unusable("every connection is in use") from error
    except sa.exc.IntegrityError as error:  # a name or request that another transaction has taken a moment ago
        raise _ConflictError from error
    except sa.exc.DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) in _CONFLICTS:
            raise _ConflictError from error
        if not isinstance(error, sa.exc.OperationalError):
            raise
        raise _unusable(str(error.orig)) from error


def _unusable(why: str) -> ServiceError:
    what = f"the job table cannot be used now ({why}); try again later, a request with the same request_id is safe"
    return ServiceError("RESOURCE_PROBLEM", what)


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
    job = _find(connection, row.job_name)
    if job is None or job.uid != row.job_uid:
        raise ServiceError(
            "JOB_NOT_FOUND",
            f"request_id {request.request_id} made {row.job_name}, which was deleted since; send a new request_id",
            request_id=request.request_id,
            name=row.job_name,
        )
    return job


def _find(connection: sa.Connection, name: str) -> Job | None:
    document = connection.execute(sa.select(JOBS.c.document).where(JOBS.c.name == name)).scalar_one_or_none()
    return None if document is None else _parse(document)


def _refuse_without_room(connection: sa.Connection, job: Job, max_pending: int) -> None:
    if _find(connection, job.name) is not None:
        raise ServiceError(
            "JOB_ALREADY_EXISTS",
            f"{job.name} exists already; choose another influence_job_id, or leave it to the server",
            name=job.name,
        )
    waiting = _count(connection, JobState.PENDING)
    if waiting >= max_pending:
        raise ServiceError(
            "QUEUE_FULL",
            f"{waiting} jobs are waiting and at most {max_pending} may; try again when one has started",
            pending=waiting,
            limit=max_pending,
        )


def _refuse_stale(result: sa.CursorResult[Any], job: Job) -> None:
    if result.rowcount != 1:
        raise StaleJob(job.name)


def _count(connection: sa.Connection, state: JobState) -> int:
    query = sa.select(sa.func.count()).select_from(JOBS).where(JOBS.c.state == state.value)
    return int(connection.execute(query).scalar_one())


def _stored(job: Job) -> tuple[sa.ColumnElement[bool], ...]:
    return (JOBS.c.uid == job.uid, JOBS.c.version == job.version)


def _row(job: Job) -> dict[str, Any]:
    return {
        "name": job.name,
        "uid": job.uid,
        "project": parse_job_name(job.name).project,
        "state": job.state.value,
        "version": job.version,
        "document": _JOB.dump_json(replace(job, eta_s=None)).decode(),
    }


def _request_row(request: RequestKey, job: Job) -> dict[str, Any]:
    return {
        "project": request.project,
        "request_id": request.request_id,
        "digest": request.digest,
        "job_name": job.name,
        "job_uid": job.uid,
        "create_time": datetime.now(UTC),
    }


def _parse(document: str) -> Job:
    return _JOB.validate_json(document)
