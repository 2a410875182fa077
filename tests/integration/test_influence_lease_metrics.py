"""Metrics of servers that share a job table: what one does is counted once, and lost leases are seen."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from eif.influence.v1 import job_pb2

from tests.databases import real_postgres
from tests.ops import fetch, scrape
from tests.servers import LEASE_S, Servers, lines, servers_on, until

FREE_PORT = "127.0.0.1:0"


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    with real_postgres() as postgres, servers_on(postgres, tmp_path) as servers:
        yield servers


def test_a_job_that_is_taken_over_is_counted_where_it_is_and_ends_once(servers: Servers) -> None:
    owner = servers.start("a", EIF_INFLUENCE_OPS_LISTEN=FREE_PORT)
    runs = servers.folder / "runs"
    wait = {"do": "forever", "attempt": 1}
    created = owner.create(servers.job({"do": "append", "path": str(runs)}, wait, servers.succeed()))
    until(lambda: lines(runs))
    other = servers.start("b", EIF_INFLUENCE_OPS_LISTEN=FREE_PORT)
    assert [scrape(each.ops_address).value("eif_jobs", state="running", kind="rank") for each in (owner, other)] == [
        1,
        1,
    ]
    assert scrape(other.ops_address).value("eif_lease_expired_total") == 0
    owner.kill()
    assert other.ended(created).state == job_pb2.JOB_STATE_SUCCEEDED
    scraped = scrape(other.ops_address)
    assert scraped.value("eif_lease_expired_total") == 1
    assert scraped.value("eif_job_duration_seconds_count", outcome="succeeded") == 1
    assert scraped.value("eif_job_attempts_total", outcome="succeeded") == 1


def test_a_server_whose_database_is_away_is_not_ready_but_live(tmp_path: Path) -> None:
    with real_postgres() as postgres, servers_on(postgres, tmp_path) as servers:
        server = servers.start("a", EIF_INFLUENCE_OPS_LISTEN=FREE_PORT)
        assert fetch(server.ops_address, "/readyz").status == 200
        postgres.kill()
        until(lambda: fetch(server.ops_address, "/readyz").status == 503)
        assert "job table" in fetch(server.ops_address, "/readyz").checks["job_table"]
        assert scrape(server.ops_address).value("eif_job_table_up") == 0
        ends = time.monotonic() + LEASE_S
        while time.monotonic() < ends:
            assert fetch(server.ops_address, "/livez").status == 200
        postgres.start()
        until(lambda: fetch(server.ops_address, "/readyz").status == 200)
