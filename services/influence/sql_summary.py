"""Counts the jobs of a job table. Inside of a transaction of the caller."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import ColumnElement

from services.influence.job import JobState
from services.influence.job_summary import JobSummary
from services.influence.job_tables import JOBS
from services.influence.sql_rows import find_job


class _Kind(ColumnElement[str]):
    """The kind of a job, which has no column of its own: nobody but operators asks for it."""

    inherit_cache = True
    type = sa.String()


@compiles(_Kind, "postgresql")
def _postgresql(_element: _Kind, _compiler: SQLCompiler, **_options: Any) -> str:  # noqa: ANN401  SQLAlchemy's form
    return "(jobs.document::json #>> '{spec,kind}')"


@compiles(_Kind, "sqlite")
def _sqlite(_element: _Kind, _compiler: SQLCompiler, **_options: Any) -> str:  # noqa: ANN401  SQLAlchemy's form
    return "json_extract(jobs.document, '$.spec.kind')"


def summarize(connection: sa.Connection) -> JobSummary:
    """Jobs by state and kind, and since when the first one waits."""
    kind = _Kind().label("kind")
    found = connection.execute(sa.select(JOBS.c.state, kind, sa.func.count()).group_by(JOBS.c.state, sa.text("kind")))
    counts = {(JobState(state), kind): count for state, kind, count in found}
    waiting = any(state is JobState.PENDING for state, _ in counts)
    first = find_job(connection, JOBS.c.position == _first_that_waits()) if waiting else None
    return JobSummary(counts=counts, waiting_since=first.create_time if first else None)


def _first_that_waits() -> sa.ScalarSelect[Any]:
    return sa.select(sa.func.min(JOBS.c.position)).where(JOBS.c.state == JobState.PENDING.value).scalar_subquery()
