"""The state of a lease as its server sees it, on a real table, with leases that are seconds long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from services.common.errors import ServiceError
from services.common.storage.local import LocalStore
from services.influence import job as jobs
from services.influence.board import Board
from services.influence.clock import now
from services.influence.job import JobState
from services.influence.lease import Claim, Lease, LeaseLost, ProgressNote
from services.influence.lease_keeper import LeaseKeeper
from services.influence.ledger import Ledger
from services.influence.settlement import Settlement
from services.influence.sql_job_store import SqlJobStore
from services.influence.sqlite import sqlite_engine
from services.influence.verdict import after_restart
from tests.jobs import PROGRESS, T1, make_job
from tests.waiting import eventually

LEASE_S = 2.0


class Table(SqlJobStore):
    """A job table that others use too, and that can be away."""

    def __init__(self, path: Path) -> None:
        super().__init__(sqlite_engine(path))
        self.shared = True
        self.renewals = 0
        self.is_away = False

    def renew(self, notes: Mapping[Lease, ProgressNote | None], *, lease_s: float) -> frozenset[Lease]:
        if self.is_away:
            raise ServiceError("JOB_TABLE_UNAVAILABLE", "away")
        self.renewals += 1
        return super().renew(notes, lease_s=lease_s)


@dataclass
class World:
    """A keeper with one claim, and what it has asked for."""

    table: Table
    ledger: Ledger
    keeper: LeaseKeeper
    claim: Claim
    asked: list[str] = field(default_factory=list)

    async def hold(self) -> None:
        asked_at = asyncio.get_running_loop().time()
        self.keeper.hold(
            self.claim.lease,
            asked_at=asked_at,
            stop=lambda: self.asked.append("stop"),
            kill=lambda: self.asked.append("kill"),
        )

    def settlement(self, folder: Path) -> Settlement:
        return Settlement(ledger=self.ledger, store=LocalStore([folder]), keeper=self.keeper, state_dir=folder)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    table = Table(tmp_path / "jobs.sqlite")
    ledger = Ledger(table, Board())
    table.create(make_job(output_uri_prefix=f"file://{tmp_path}/out"), request=None, max_pending=9)
    claim = table.claim("this", lease_s=LEASE_S, now=T1)
    assert claim is not None
    world = World(table, ledger, LeaseKeeper(ledger, lease_s=LEASE_S), claim)
    await world.hold()
    running = asyncio.create_task(world.keeper.run())
    yield world
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    world.keeper.let_go(claim.job.uid)
    ledger.close()


def taken(world: World) -> Claim:
    """Another server's claim, as if the lease had expired."""
    claim = world.table.take_over("this", lease_s=60)
    assert claim is not None
    return claim


async def test_a_lease_that_is_renewed_outlives_its_time(world: World) -> None:
    until = asyncio.get_running_loop().time() + 2 * LEASE_S
    await eventually(lambda: asyncio.get_running_loop().time() > until)
    assert world.keeper.is_ours(world.claim.lease)
    assert world.asked == []
    assert world.table.take_over("other", lease_s=60) is None
    assert world.table.renewals <= 2 * 4 + 2, "about four to a lease"


async def test_without_renewals_the_job_is_stopped_then_killed_then_anothers(world: World) -> None:
    world.table.is_away = True
    await eventually(lambda: world.asked == ["stop"])
    assert world.keeper.is_ours(world.claim.lease), "there is time to stop in order"
    assert world.table.take_over("other", lease_s=60) is None
    await eventually(lambda: world.asked == ["stop", "kill"])
    assert not world.keeper.is_ours(world.claim.lease)
    await eventually(lambda: world.table.take_over("other", lease_s=60) is not None)


async def test_a_table_that_comes_back_in_time_saves_the_lease(world: World) -> None:
    world.table.is_away = True
    await eventually(lambda: world.asked == ["stop"])
    world.table.is_away = False
    renewals = world.table.renewals
    await eventually(lambda: world.table.renewals > renewals)
    assert world.keeper.is_ours(world.claim.lease)


async def test_a_lease_that_somebody_else_has_is_lost_at_once(world: World) -> None:
    taken(world)
    await eventually(lambda: world.asked == ["stop"])
    assert not world.keeper.is_ours(world.claim.lease)
    world.keeper.lose(world.claim.lease)
    assert world.asked == ["stop"], "it is said once"


async def test_a_lease_of_an_older_claim_is_not_the_one_that_is_held(world: World) -> None:
    newer = taken(world)
    world.claim = newer
    await world.hold()
    older = replace(newer.lease, epoch=1)
    world.keeper.lose(older)
    assert world.keeper.is_ours(newer.lease)
    assert not world.keeper.is_ours(older)


async def test_progress_is_stored_for_other_servers(world: World) -> None:
    world.keeper.note(world.claim.job, ProgressNote(progress=PROGRESS, eta_s=3.0, time=T1))
    await eventually(lambda: world.table.get(world.claim.job.name).progress == PROGRESS)


async def test_what_a_stale_owner_says_is_refused_by_the_table_although_it_knows_nothing(
    world: World, tmp_path: Path
) -> None:
    """Frozen between its look at the lease and its commit: the table has the last word."""
    newer = taken(world)
    assert world.keeper.is_ours(world.claim.lease)
    with pytest.raises(LeaseLost):
        await world.ledger.change(
            world.claim.job.name, lambda job: jobs.cancelled(jobs.ask_to_cancel(job, T1), T1), lease=world.claim.lease
        )
    await world.settlement(tmp_path).fail(world.claim, ServiceError("INTERNAL", "too late"))
    assert world.table.get(newer.job.name) == newer.job


async def test_nothing_is_said_of_a_job_once_its_lease_has_ended(world: World, tmp_path: Path) -> None:
    world.table.is_away = True
    await eventually(lambda: "kill" in world.asked)
    await world.settlement(tmp_path).settle(world.claim, lambda job, output: after_restart(job, output, now=now()))
    stored = world.table.get(world.claim.job.name)
    assert (stored.state, stored.version) == (JobState.RUNNING, world.claim.job.version)
