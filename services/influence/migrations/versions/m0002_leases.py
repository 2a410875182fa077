"""Leases, and when jobs started and ended by the clock of the database."""

from __future__ import annotations

import json
from datetime import datetime

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_ENDED = ("succeeded", "failed", "cancelled")


def upgrade() -> None:
    """Make the table and the columns. For jobs that have ended, the clock of the server that ran them must do."""
    op.create_table(
        "leases",
        sa.Column("uid", sa.String(36), primary_key=True),
        sa.Column("owner", sa.String(64), nullable=True),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("expires", sa.Double, nullable=True),
        sa.Column("progress", sa.Text, nullable=True),
    )
    op.add_column("jobs", sa.Column("started_at", sa.Double, nullable=True))
    op.add_column("jobs", sa.Column("ended_at", sa.Double, nullable=True))
    op.create_index("jobs_by_end", "jobs", ["ended_at"])
    _fill(op.get_bind())


def _fill(connection: sa.Connection) -> None:
    jobs = sa.table("jobs", *map(sa.column, ("position", "state", "document", "started_at", "ended_at")))
    ended = sa.select(jobs.c.position, jobs.c.document).where(jobs.c.state.in_(_ENDED))
    for position, text in connection.execute(ended).all():
        document = json.loads(text)
        times = {"started_at": _seconds(document["start_time"]), "ended_at": _seconds(document["end_time"])}
        connection.execute(sa.update(jobs).where(jobs.c.position == position).values(times))


def _seconds(time: str | None) -> float | None:
    return None if time is None else datetime.fromisoformat(time).timestamp()
