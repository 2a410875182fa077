"""Brings the tables of a database to the form that this version needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

HEAD = "0002"
"""The newest migration; a test compares it with the files."""
FOLDER = Path(__file__).with_name("migrations")

_LOCK = 0x6569_6600_0001
"""Of the advisory lock on PostgreSQL: one server at a time migrates."""


def migrate(engine: sa.Engine) -> None:
    """Apply what is missing; a database that is newer is left as it is: migrations only ever add."""
    if (_revision(engine) or "") < HEAD:  # all have four digits
        upgrade(engine, "head")


def upgrade(engine: sa.Engine, revision: str) -> None:
    """Apply the migrations up to one of them."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    with _alone(engine) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


@contextmanager
def _alone(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that sees what every one before it has done. SQLite's take the lock of the database at once."""
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        yield connection


def _revision(engine: sa.Engine) -> str | None:
    """Which migration was applied last; None in a new database, and in one of before there were migrations."""
    with engine.connect() as connection, connection.execution_options(reads_only=True).begin():
        if not sa.inspect(connection).has_table("alembic_version"):
            return None
        found = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
    return None if found is None else str(found)
