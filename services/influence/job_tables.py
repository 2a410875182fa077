"""The tables behind SqlJobStore. A change here needs a migration: a test compares the two."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import ColumnElement

METADATA = sa.MetaData()

JOBS = sa.Table(
    "jobs",
    METADATA,
    # In the order in which jobs were created; the place in the queue.
    sa.Column("position", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("name", sa.String(160), nullable=False, unique=True),
    sa.Column("uid", sa.String(36), nullable=False, unique=True),
    sa.Column("project", sa.String(63), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("document", sa.Text, nullable=False),
    # By the clock of the database, see DatabaseSeconds; the document has what the servers' clocks said.
    sa.Column("started_at", sa.Double, nullable=True),
    sa.Column("ended_at", sa.Double, nullable=True),
    sa.Index("jobs_by_state", "state", "position"),
    sa.Index("jobs_by_project", "project", "position"),
    sa.Index("jobs_by_end", "ended_at"),
    sqlite_autoincrement=True,  # positions of deleted jobs are not given again, so page tokens stay right
)

LEASES = sa.Table(
    "leases",
    METADATA,
    # A row stays for as long as its job can be claimed again, so that epochs only ever grow.
    sa.Column("uid", sa.String(36), primary_key=True),
    sa.Column("owner", sa.String(64), nullable=True),  # none: given back
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("expires", sa.Double, nullable=True),
    sa.Column("progress", sa.Text, nullable=True),
)

REQUESTS = sa.Table(
    "requests",
    METADATA,
    sa.Column("project", sa.String(63), primary_key=True),
    sa.Column("request_id", sa.String(36), primary_key=True),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("job_name", sa.String(160), nullable=False),
    sa.Column("job_uid", sa.String(36), nullable=False),
    sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
)


class DatabaseSeconds(ColumnElement[float]):
    """The time now by the clock of the database, in seconds since 1970: the one clock that all servers share."""

    inherit_cache = True
    type = sa.Double()


@compiles(DatabaseSeconds, "postgresql")
def _postgresql(_element: DatabaseSeconds, _compiler: SQLCompiler, **_options: object) -> str:
    # Not now(): that is when the transaction began, which may be long ago when it had to wait.
    return "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"


@compiles(DatabaseSeconds, "sqlite")
def _sqlite(_element: DatabaseSeconds, _compiler: SQLCompiler, **_options: object) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"
