"""Between jobs and the rows that keep them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from pydantic import TypeAdapter

from services.influence.job import Job, JobState, advance
from services.influence.job_tables import JOBS, LEASES, DatabaseSeconds
from services.influence.lease import Lease, ProgressNote
from services.influence.names import parse_job_name

_JOB: TypeAdapter[Job] = TypeAdapter(Job)
_NOTE: TypeAdapter[ProgressNote] = TypeAdapter(ProgressNote)

ACTIVE = [state.value for state in JobState if state.active]


def select_jobs(*columns: sa.ColumnElement[Any]) -> sa.Select[Any]:
    """Jobs, each with what its owner has told of it since."""
    joined = JOBS.outerjoin(LEASES, LEASES.c.uid == JOBS.c.uid)
    return sa.select(*columns, JOBS.c.document, LEASES.c.progress).select_from(joined)


NAMED = select_jobs().where(JOBS.c.name == sa.bindparam("name"))
"""The job of a name. Made once: to build a statement takes twice as long as to run it."""


def read_jobs(connection: sa.Connection, query: sa.Select[Any]) -> tuple[Job, ...]:
    """What `select_jobs` finds."""
    return tuple(map(read_row, connection.execute(query)))


def find_job(connection: sa.Connection, *where: sa.ColumnElement[bool]) -> Job | None:
    """One job; None where there is none."""
    row = connection.execute(select_jobs().where(*where).limit(1)).one_or_none()
    return None if row is None else read_row(row)


def read_row(row: sa.Row[Any]) -> Job:
    """The job of a row."""
    job = _JOB.validate_json(row.document)
    note = read_note(row.progress)
    if note is None or not job.state.active:
        return job
    return advance(job, note.progress, note.eta_s, note.time)


def read_note(text: str | None) -> ProgressNote | None:
    """What an owner has told, if it has."""
    return None if text is None else _NOTE.validate_json(text)


def write_note(note: ProgressNote) -> str:
    """As it is stored."""
    return _NOTE.dump_json(note).decode()


def job_values(job: Job) -> dict[str, Any]:
    """The columns of a job, but for `started_at`, which is that of its claim."""
    return {
        "name": job.name,
        "uid": job.uid,
        "project": project_of(job),
        "state": job.state.value,
        "version": job.version,
        "document": _JOB.dump_json(replace(job, eta_s=None, expire_time=None)).decode(),
        "ended_at": DatabaseSeconds() if job.state.ended else None,
    }


def project_of(job: Job) -> str:
    """The project that a job belongs to."""
    return parse_job_name(job.name).project


def held_by(lease: Lease) -> tuple[sa.ColumnElement[bool], ...]:
    """Whether a row of LEASES is still this one."""
    return (LEASES.c.uid == lease.uid, LEASES.c.owner == lease.owner, LEASES.c.epoch == lease.epoch)


def count_jobs(connection: sa.Connection, states: Iterable[str], *where: sa.ColumnElement[bool]) -> int:
    """How many jobs are in one of these states."""
    query = sa.select(sa.func.count()).select_from(JOBS).where(JOBS.c.state.in_(list(states)), *where)
    return int(connection.execute(query).scalar_one())
