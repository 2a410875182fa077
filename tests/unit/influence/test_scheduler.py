from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from services.common.storage.local import LocalStore
from services.influence.board import Board
from services.influence.clock import now
from services.influence.job import Job, JobState, ask_to_cancel
from services.influence.job_folder import prepare_folder
from services.influence.ledger import Ledger
from services.influence.quotas import Quotas
from services.influence.runner import ExitReport, OnMessage
from services.influence.scheduler import Scheduler
from services.influence.sql_job_store import SqlJobStore
from services.influence.sqlite import sqlite_engine
from tests.jobs import make_job
from tests.waiting import eventually


class EndlessRunner:
    """A JobRunner whose processes run until they are asked to stop."""

    def __init__(self) -> None:
        self.started: list[Path] = []
        self._stops: dict[Path, asyncio.Event] = {}

    async def run(self, folder: Path, on_message: OnMessage) -> ExitReport:  # noqa: ARG002  they say nothing
        self.started.append(folder)
        stop = self._stops[folder] = asyncio.Event()
        await stop.wait()
        del self._stops[folder]
        return ExitReport(exit_code=0, asked_to_stop=True)

    def cancel(self, folder: Path) -> None:
        if folder in self._stops:
            self._stops[folder].set()

    def leave(self, folder: Path) -> None:
        self.cancel(folder)

    async def reap(self, folder: Path) -> None:  # noqa: ARG002  there are none
        return


class Gate:
    """Holds the preparation of a job's folder until it is opened."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate()

    def prepare_slowly(state_dir: Path, job: Job) -> Path:
        gate.reached.set()
        assert gate.opened.wait(20)
        return prepare_folder(state_dir, job)

    monkeypatch.setattr("services.influence.scheduler.prepare_folder", prepare_slowly)
    yield gate
    gate.opened.set()


@asynccontextmanager
async def scheduled(tmp_path: Path, *, start: bool = True) -> AsyncIterator[tuple[Ledger, Scheduler, EndlessRunner]]:
    ledger = Ledger(SqlJobStore(sqlite_engine(tmp_path / "jobs.sqlite")), Board())
    runner = EndlessRunner()
    scheduler = Scheduler(
        ledger=ledger,
        store=LocalStore([tmp_path]),
        runner=runner,
        state_dir=tmp_path,
        owner="this-server",
        quotas=Quotas(),
    )
    if start:
        await scheduler.start()
    yield ledger, scheduler, runner
    await asyncio.wait_for(scheduler.stop(), 20)
    ledger.close()


async def create(ledger: Ledger, scheduler: Scheduler, tmp_path: Path) -> Job:
    job = make_job(output_uri_prefix=f"file://{tmp_path}/out")
    await ledger.create(job, request=None, max_pending=9)
    scheduler.wake()
    return job


async def test_a_cancel_while_the_start_is_prepared_is_not_lost(tmp_path: Path, gate: Gate) -> None:
    async with scheduled(tmp_path) as (ledger, scheduler, runner):
        job = await create(ledger, scheduler, tmp_path)
        await eventually(gate.reached.is_set)
        changed = await ledger.change(job.name, lambda job: ask_to_cancel(job, now()))
        assert changed.state is JobState.CANCELLING
        scheduler.interrupt(changed)
        gate.opened.set()
        with ledger.board.watch(job.uid) as notice:
            await eventually(lambda: notice.job is not None and notice.job.state is JobState.CANCELLED)
        assert runner.started == []


async def test_a_stop_while_a_start_is_prepared_ends_and_leaves_the_job_to_the_next_server(
    tmp_path: Path, gate: Gate
) -> None:
    async with scheduled(tmp_path) as (ledger, scheduler, runner):
        job = await create(ledger, scheduler, tmp_path)
        await eventually(gate.reached.is_set)
        stopping = asyncio.create_task(scheduler.stop())
        await asyncio.sleep(0)
        gate.opened.set()
        await asyncio.wait_for(stopping, 20)
        assert runner.started == []
        left = await ledger.get(job.name)
        assert (left.state, left.attempt, left.crashes) == (JobState.PENDING, 2, 0)


async def test_a_stop_ends_what_runs(tmp_path: Path) -> None:
    async with scheduled(tmp_path) as (ledger, scheduler, runner):
        job = await create(ledger, scheduler, tmp_path)
        await eventually(lambda: len(runner.started) == 1)
        await asyncio.wait_for(scheduler.stop(), 20)
        left = await ledger.get(job.name)
        assert (left.state, left.attempt, left.crashes) == (JobState.PENDING, 2, 0)


async def test_a_folder_that_cannot_be_made_fails_the_job_with_a_reason(tmp_path: Path) -> None:
    async with scheduled(tmp_path) as (ledger, scheduler, runner):
        (tmp_path / "jobs").write_text("in the way")
        job = await create(ledger, scheduler, tmp_path)
        with ledger.board.watch(job.uid) as notice:
            await eventually(lambda: notice.job is not None and notice.job.state is JobState.FAILED)
        error = (await ledger.get(job.name)).error
        assert error is not None
        assert error.reason == "RESOURCE_PROBLEM"
        assert "could not be started" in error.message
        assert runner.started == []


async def abandoned(ledger: Ledger, tmp_path: Path, *, owner: str, crashes: int = 0) -> Job:
    """A job that a server has left in the middle."""
    job = make_job(output_uri_prefix=f"file://{tmp_path}/out", crashes=crashes)
    await ledger.create(job, request=None, max_pending=9)
    claim = await ledger.claim(
        owner, lease_s=3600 if owner == "this-server" else 0.0, besides=(), max_running_per_project=0
    )
    assert claim is not None
    return claim.job


@pytest.mark.parametrize(("owner", "crashes"), [("this-server", 0), ("another", 1)])
async def test_what_a_server_has_left_is_run_again(tmp_path: Path, owner: str, crashes: int) -> None:
    async with scheduled(tmp_path, start=False) as (ledger, scheduler, runner):
        job = await abandoned(ledger, tmp_path, owner=owner)
        await scheduler.start()
        await eventually(lambda: len(runner.started) == 1)
        again = await ledger.get(job.name)
        assert (again.state, again.attempt, again.crashes) == (JobState.RUNNING, 2, crashes)


async def test_the_last_run_that_may_be_lost_fails_the_job(tmp_path: Path) -> None:
    async with scheduled(tmp_path, start=False) as (ledger, scheduler, runner):
        job = await abandoned(ledger, tmp_path, owner="another", crashes=2)
        with ledger.board.watch(job.uid) as notice:
            await scheduler.start()
            await eventually(lambda: notice.job is not None and notice.job.state is JobState.FAILED)
        error = (await ledger.get(job.name)).error
        assert error is not None
        assert (error.reason, "the last of 3 runs" in error.message) == ("WORKER_CRASHED", True)
        assert runner.started == []
