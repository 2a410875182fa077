"""Fixtures of the tests that use real servers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.databases import real_postgres
from tests.influence_app import Influence, running_influence
from tests.postgres import Postgres
from tests.servers import Servers, servers_on


@pytest.fixture
async def influence(tmp_path: Path) -> AsyncIterator[Influence]:
    """The influence service, with jobs that follow a script."""
    async with running_influence(tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server of the module's own."""
    with real_postgres() as server:
        yield server


@pytest.fixture
def servers(postgres: Postgres, tmp_path: Path) -> Iterator[Servers]:
    """Influence servers that share a new database."""
    with servers_on(postgres, tmp_path) as servers:
        yield servers
