"""The table of jobs in an SQL database: SQLite now; nothing outside `sqlite.py` is particular to it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from pydantic import TypeAdapter

from services.common.errors import ServiceError
from services.influence.job import Job, JobState
from services.influence.job_store import JobPage, RequestKey, StaleJob
from services.influence.names import parse_job_name

_METADATA = sa.MetaData()
_JOB: TypeAdapter[Job] = TypeAdapter(Job)

JOBS = sa.Table(
    "jobs",
    _METADATA,
    # In the order in which jobs were created; the place in the queue.
    sa.Column("position", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("name", sa.String(160), nullable=False, unique=True),
    sa.Column("uid", sa.String(36), nullable=False, unique=True),
    sa.Column("project", sa.String(63), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("document", sa.Text, nullable=False),
    sa.Index("jobs_by_state", "state", "position"),
    sa.Index("jobs_by_project", "project", "position"),
    sqlite_autoincrement=True,  # positions of deleted jobs are not given again, so page tokens stay right
)

REQUESTS = sa.Table(
    "requests",
    _METADATA,
    sa.Column("project", sa.String(63), primary_key=True),
    sa.Column("request_id", sa.String(36), primary_key=True),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("job_name", sa.String(160), nullable=False),
    sa.Column("job_uid", sa.String(36), nullable=False),
    sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
)


class SqlJobStore:
    """JobStore on an engine whose transactions are serializable and durable."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        with self._writing() as connection:
            _METADATA.create_all(connection)

    def create(self, job: Job, *, request: RequestKey | None, max_pending: int) -> Job:
        with self._writing() as connection:
            known = _find_request(connection, request) if request else None
            if known is not None:
                return known
            _refuse_without_room(connection, job, max_pending)
            connection.execute(sa.insert(JOBS), _row(job))
            if request is not None:
                connection.execute(sa.insert(REQUESTS), _request_row(request, job))
        return job

    def check_room(self, job: Job, *, max_pending: int) -> None:
        with self._reading() as connection:
            _refuse_without_room(connection, job, max_pending)

    def find_request(self, request: RequestKey) -> Job | None:
        with self._reading() as connection:
            return _find_request(connection, request)

    def get(self, name: str) -> Job:
        with self._reading() as connection:
            job = _find(connection, name)
        if job is None:
            raise ServiceError("JOB_NOT_FOUND", f"there is no job {name}; it may have been deleted", name=name)
        return job

    def replace(self, job: Job) -> Job:
        changed = replace(job, version=job.version + 1)
        with self._writing() as connection:
            result = connection.execute(sa.update(JOBS).where(*_stored(job)).values(**_row(changed)))
            _refuse_stale(result, job)
        return changed

    def delete(self, job: Job) -> None:
        with self._writing() as connection:
            _refuse_stale(connection.execute(sa.delete(JOBS).where(*_stored(job))), job)

    def list(
        self, project: str, *, states: Collection[JobState] = (), limit: int, before: int | None = None
    ) -> JobPage:
        query = sa.select(JOBS.c.position, JOBS.c.document).where(JOBS.c.project == project)
        if states:
            query = query.where(JOBS.c.state.in_([state.value for state in states]))
        if before is not None:
            query = query.where(JOBS.c.position < before)
        with self._reading() as connection:
            rows = connection.execute(query.order_by(JOBS.c.position.desc()).limit(limit + 1)).all()
        jobs = tuple(_parse(row.document) for row in rows[:limit])
        return JobPage(jobs=jobs, next_position=rows[limit - 1].position if len(rows) > limit else None)

    def oldest(self, state: JobState) -> Job | None:
        query = sa.select(JOBS.c.document).where(JOBS.c.state == state.value).order_by(JOBS.c.position).limit(1)
        with self._reading() as connection:
            document = connection.execute(query).scalar_one_or_none()
        return None if document is None else _parse(document)

    def active(self) -> tuple[Job, ...]:
        states = [state.value for state in JobState if state.active]
        query = sa.select(JOBS.c.document).where(JOBS.c.state.in_(states)).order_by(JOBS.c.position)
        with self._reading() as connection:
            return tuple(_parse(document) for document in connection.execute(query).scalars())

    def count(self, state: JobState) -> int:
        with self._reading() as connection:
            return _count(connection, state)

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with _translated(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with _translated(), self._engine.connect() as connection:
            yield connection.execution_options(reads_only=True)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (sa.exc.OperationalError, sa.exc.TimeoutError) as error:
        why = error.orig if isinstance(error, sa.exc.OperationalError) else "every connection is in use"
        raise ServiceError(
            "RESOURCE_PROBLEM", f"the job table cannot be used now ({why}); nothing was changed, try again later"
        ) from error


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
