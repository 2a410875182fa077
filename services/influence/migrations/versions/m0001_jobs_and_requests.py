"""Jobs, and the requests that made them. SQLite databases of before there were migrations have these tables already."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make both tables where they are not there yet."""
    op.create_table(
        "jobs",
        sa.Column("position", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("name", sa.String(160), nullable=False, unique=True),
        sa.Column("uid", sa.String(36), nullable=False, unique=True),
        sa.Column("project", sa.String(63), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sqlite_autoincrement=True,
        if_not_exists=True,
    )
    op.create_index("jobs_by_state", "jobs", ["state", "position"], if_not_exists=True)
    op.create_index("jobs_by_project", "jobs", ["project", "position"], if_not_exists=True)
    op.create_table(
        "requests",
        sa.Column("project", sa.String(63), primary_key=True),
        sa.Column("request_id", sa.String(36), primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("job_name", sa.String(160), nullable=False),
        sa.Column("job_uid", sa.String(36), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        if_not_exists=True,
    )
