"""How many jobs may wait, and when there will be room again. Inside of a transaction of the caller."""

from __future__ import annotations

import sqlalchemy as sa

from services.common.errors import ServiceError
from services.influence.job import Job, JobState
from services.influence.job_tables import JOBS
from services.influence.sql_rows import ACTIVE, count_jobs, find_job, project_of

DEFAULT_RETRY_S = 5.0
MIN_RETRY_S, MAX_RETRY_S = 1.0, 300.0

_LATEST = 16
"""Ended jobs whose run times tell how long the next one may take."""


def refuse_without_room(connection: sa.Connection, job: Job, *, max_pending: int, max_pending_per_project: int) -> None:
    """Raise JOB_ALREADY_EXISTS or QUEUE_FULL where a new job cannot be taken; a limit of a project of 0 is none."""
    if find_job(connection, JOBS.c.name == job.name) is not None:
        raise ServiceError(
            "JOB_ALREADY_EXISTS",
            f"{job.name} exists already; choose another influence_job_id, or leave it to the server",
            name=job.name,
        )
    waiting = count_jobs(connection, [JobState.PENDING.value])
    if waiting >= max_pending:
        what = f"{waiting} jobs are waiting and at most {max_pending} may"
        raise _full(connection, what, pending=waiting, limit=max_pending)
    if max_pending_per_project:
        _refuse_project(connection, project_of(job), max_pending_per_project)


def _refuse_project(connection: sa.Connection, project: str, limit: int) -> None:
    waiting = count_jobs(connection, [JobState.PENDING.value], JOBS.c.project == project)
    if waiting >= limit:
        what = f"{waiting} jobs of project {project} are waiting and at most {limit} may"
        raise _full(connection, what, pending=waiting, limit=limit, project=project)


def _full(
    connection: sa.Connection, what: str, *, pending: int, limit: int, project: str | None = None
) -> ServiceError:
    retry_s = _until_one_starts(connection, project)
    metadata = {"project": project} if project is not None else {}
    return ServiceError(
        "QUEUE_FULL",
        f"{what}; try again when one has started, in about {retry_s:.0f} s",
        pending=pending,
        limit=limit,
        retry_after_s=round(retry_s, 3),
        **metadata,
    )


def _until_one_starts(connection: sa.Connection, project: str | None) -> float:
    """Expected seconds until the next job starts: the mean run time of late, over the number that run."""
    where = () if project is None else (JOBS.c.project == project,)
    seconds = (JOBS.c.ended_at - JOBS.c.started_at).label("seconds")
    ran = (JOBS.c.ended_at.is_not(None), JOBS.c.started_at.is_not(None))
    latest = sa.select(seconds).where(*ran, *where).order_by(JOBS.c.ended_at.desc()).limit(_LATEST).subquery()
    mean = connection.execute(sa.select(sa.func.avg(latest.c.seconds))).scalar_one()
    if mean is None:
        return DEFAULT_RETRY_S
    running = count_jobs(connection, ACTIVE, *where)
    return min(max(float(mean) / max(running, 1), MIN_RETRY_S), MAX_RETRY_S)
