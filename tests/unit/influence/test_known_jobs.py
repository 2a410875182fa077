"""Whatever is told of a job without asking the table is what the table holds."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from services.common.errors import ServiceError
from services.influence.board import Board
from services.influence.job import Job, JobState, ask_to_cancel
from services.influence.known_jobs import KnownJobs
from services.influence.lease import Lease
from services.influence.ledger import Ledger
from services.influence.sql_job_store import SqlJobStore
from services.influence.sqlite import sqlite_engine
from tests.jobs import T1, make_job

NAMES = [make_job(f"job-{letter}").name for letter in "ab"]


class Reads(RuleBasedStateMachine):
    """Changes and reads of a table, which take their time and meet in any order."""

    changes = Bundle("changes")
    reads = Bundle("reads")

    def __init__(self) -> None:
        super().__init__()
        self.known = KnownJobs(most=2)
        self.table: dict[str, Job] = {job.name: job for job in (make_job("job-a"), make_job("job-b"))}

    @rule(target=changes, name=st.sampled_from(NAMES), fails=st.booleans())
    def change_begins(self, name: str, *, fails: bool) -> tuple[str, bool]:
        self.known.change_begins()
        return name, fails

    @rule(change=changes)
    def change_is_made(self, change: tuple[str, bool]) -> None:
        name, _ = change
        self.table[name] = replace(self.table[name], version=self.table[name].version + 1)

    @rule(change=consumes(changes))
    def change_ends(self, change: tuple[str, bool]) -> None:
        name, fails = change
        self.known.change_ends(None if fails else {self.table[name].uid})

    @rule(target=reads, name=st.sampled_from(NAMES))
    def read_begins(self, name: str) -> tuple[int, Job]:
        return self.known.moment, self.table[name]

    @rule(read=consumes(reads))
    def read_ends(self, read: tuple[int, Job]) -> None:
        moment, job = read
        self.known.learn(job, moment=moment)

    @invariant()
    def what_is_told_is_in_the_table(self) -> None:
        for name in NAMES:
            told = self.known.get(name)
            assert told is None or told == self.table[name]


TestReads = Reads.TestCase
TestReads.settings = settings(max_examples=300, stateful_step_count=20, deadline=None)


def test_the_least_recently_asked_for_go_first() -> None:
    known, jobs = KnownJobs(most=2), [make_job(f"job-{letter}") for letter in "abc"]
    for job in jobs[:2]:
        known.learn(job, moment=known.moment)
    assert known.get(jobs[0].name) == jobs[0]
    known.learn(jobs[2], moment=known.moment)
    assert [known.get(job.name) for job in jobs] == [jobs[0], None, jobs[2]]


class Table(SqlJobStore):
    """A table that counts reads, and can hold a change before and after it is made."""

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        super().__init__(sqlite_engine(path))
        self.shared = shared
        self.reads = 0
        self.reached, self.before, self.made, self.after = (threading.Event() for _ in range(4))
        self.before.set()
        self.after.set()

    def get(self, name: str) -> Job:
        self.reads += 1
        return super().get(name)

    def replace(self, job: Job, *, lease: Lease | None = None) -> Job:
        self.reached.set()
        assert self.before.wait(20)
        stored = super().replace(job, lease=lease)
        self.made.set()
        assert self.after.wait(20)
        return stored


@pytest.fixture
async def table(tmp_path: Path) -> AsyncIterator[Table]:
    table = Table(tmp_path / "jobs.sqlite")
    yield table
    table.before.set()
    table.after.set()


@pytest.fixture
async def ledger(table: Table) -> AsyncIterator[Ledger]:
    ledger = Ledger(table, Board())
    yield ledger
    table.before.set()
    table.after.set()
    ledger.close()


def cancelled(job: Job) -> Job:
    return ask_to_cancel(job, T1)


async def kept(ledger: Ledger, job_id: str = "job-a") -> Job:
    return await ledger.create(make_job(job_id), request=None, max_pending=9)


async def test_a_job_is_read_once_and_again_after_each_change(ledger: Ledger, table: Table) -> None:
    job = await kept(ledger)
    assert [await ledger.get(job.name) for _ in range(3)] == [job] * 3
    assert table.reads == 1
    changed = await ledger.change(job.name, cancelled)
    assert [(await ledger.get(job.name)).state for _ in range(3)] == [JobState.CANCELLED] * 3
    assert table.reads == 2
    await ledger.delete(changed)
    with pytest.raises(ServiceError, match="there is no job"):
        await ledger.get(job.name)


async def test_a_claimed_job_is_read_again_and_others_are_not(ledger: Ledger, table: Table) -> None:
    first, second = await kept(ledger), await kept(ledger, "job-b")
    for job in (first, second):
        await ledger.get(job.name)
    claim = await ledger.claim("here", lease_s=60, max_running_per_project=0, besides=())
    assert claim is not None
    assert (await ledger.get(first.name)).state is JobState.RUNNING
    assert await ledger.get(second.name) == second
    assert table.reads == 3


async def test_while_a_change_is_under_way_the_table_is_asked(ledger: Ledger, table: Table) -> None:
    job = await kept(ledger)
    await ledger.get(job.name)
    table.after.clear()
    changing = asyncio.create_task(ledger.change(job.name, cancelled))
    assert await asyncio.to_thread(table.made.wait, 20)
    assert (await ledger.get(job.name)).state is JobState.CANCELLED, "it is in the table, though nobody was told"
    table.after.set()
    await changing


async def test_a_change_whose_caller_has_gone_is_seen(ledger: Ledger, table: Table) -> None:
    job = await kept(ledger)
    table.before.clear()
    changing = asyncio.create_task(ledger.change(job.name, cancelled))
    assert await asyncio.to_thread(table.reached.wait, 20)
    changing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await changing
    assert (await ledger.get(job.name)).state is JobState.PENDING
    table.before.set()
    assert await asyncio.to_thread(table.made.wait, 20)
    assert (await ledger.get(job.name)).state is JobState.CANCELLED


async def test_a_change_that_failed_may_have_been_made_all_the_same(
    ledger: Ledger, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await kept(ledger)
    await ledger.get(job.name)

    def made_but_not_told(job: Job, *, lease: Lease | None = None) -> Job:
        SqlJobStore.replace(table, job, lease=lease)
        raise ServiceError("RESOURCE_PROBLEM", "the answer was lost")

    monkeypatch.setattr(table, "replace", made_but_not_told)
    with pytest.raises(ServiceError, match="lost"):
        await ledger.change(job.name, cancelled)
    assert (await ledger.get(job.name)).state is JobState.CANCELLED


async def test_a_table_that_others_change_is_asked_each_time(tmp_path: Path) -> None:
    table, other = Table(tmp_path / "jobs.sqlite", shared=True), SqlJobStore(sqlite_engine(tmp_path / "jobs.sqlite"))
    ledger = Ledger(table, Board())
    job = await kept(ledger)
    for _ in range(2):
        assert await ledger.get(job.name) == job
    other.replace(cancelled(job))
    assert (await ledger.get(job.name)).state is JobState.CANCELLED
    assert table.reads == 3
    other.delete(await ledger.get(job.name))
    with pytest.raises(ServiceError, match="there is no job"):
        await ledger.get(job.name)
    ledger.close()
    other.close()


async def test_of_changes_that_meet_each_sees_the_one_before(ledger: Ledger) -> None:
    job = await kept(ledger)
    names = [str(number) for number in range(20)]

    async def change(name: str) -> None:
        await ledger.change(job.name, lambda job: replace(job, labels=job.labels | {name: name}))
        assert name in (await ledger.get(job.name)).labels

    await asyncio.gather(*map(change, names))
    assert set((await ledger.get(job.name)).labels) == set(names)
