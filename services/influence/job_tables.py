"""The tables behind SqlJobStore. A change here needs a migration: a test compares the two."""

from __future__ import annotations

import sqlalchemy as sa

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
    sa.Index("jobs_by_state", "state", "position"),
    sa.Index("jobs_by_project", "project", "position"),
    sqlite_autoincrement=True,  # positions of deleted jobs are not given again, so page tokens stay right
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
