"""Fixtures of the contract suites: a new job table on every database."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.influence.job_store import JobStore
from services.influence.sql_job_store import SqlJobStore
from tests.databases import engine_of, real_postgres
from tests.postgres import Postgres

DATABASES = ("sqlite", "postgresql")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.sqlite"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with real_postgres() as server:
        yield server


@pytest.fixture(params=DATABASES)
def url(request: pytest.FixtureRequest, path: Path) -> str:
    """Of a new database."""
    if request.param == "sqlite":
        return f"sqlite:///{path}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.create(f"jobs_{uuid.uuid4().hex}")


@pytest.fixture
def reopen(url: str) -> Iterator[Callable[[], JobStore]]:
    """Opens the same table again, as another server does, or a restarted one."""
    opened: list[JobStore] = []

    def open_again() -> JobStore:
        opened.append(SqlJobStore(engine_of(url)))
        return opened[-1]

    yield open_again
    for store in opened:
        store.close()


@pytest.fixture
def store(reopen: Callable[[], JobStore]) -> JobStore:
    return reopen()
