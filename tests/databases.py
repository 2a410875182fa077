"""Databases for job tables: SQLite in a file, and a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import sqlalchemy as sa

from services.influence.postgres import postgres_engine
from services.influence.sqlite import sqlite_engine
from tests.postgres import Postgres, find_postgres, running_postgres


def engine_of(url: str) -> sa.Engine:
    """As the service makes it."""
    return sqlite_engine(Path(url.removeprefix("sqlite:///"))) if url.startswith("sqlite") else postgres_engine(url)


@contextmanager
def real_postgres() -> Iterator[Postgres]:
    """A server of its own; the test is skipped where it is not installed."""
    programs = find_postgres()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (initdb and postgres are not on the PATH)")
    with TemporaryDirectory(prefix="pg-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        with running_postgres(programs, Path(folder) / "server") as server:
            yield server
