from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from services.common.errors import ServiceError
from services.influence import job as jobs
from services.influence.board import Board
from services.influence.job import Job
from services.influence.job_folder import job_folder
from services.influence.ledger import Ledger
from services.influence.retention import BATCH, Retention
from services.influence.sql_job_store import SqlJobStore
from services.influence.sqlite import sqlite_engine
from tests.jobs import T1, make_job

TINY = timedelta(microseconds=1)


@asynccontextmanager
async def table(folder: Path) -> AsyncIterator[Ledger]:
    ledger = Ledger(SqlJobStore(sqlite_engine(folder / "jobs.sqlite")), Board())
    yield ledger
    ledger.close()


async def ended(ledger: Ledger, name: str) -> Job:
    job = await ledger.create(make_job(name), request=None, max_pending=999)
    return await ledger.change(job.name, lambda job: jobs.cancelled(job, T1))


async def test_every_job_that_is_old_enough_is_deleted_and_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with table(tmp_path) as ledger:
        old = [await ended(ledger, f"old-{number}") for number in range(BATCH + 3)]
        waits = await ledger.create(make_job("waits"), request=None, max_pending=999)
        await asyncio.sleep(0.01)
        keeps = Retention(ledger=ledger, delete=ledger.delete, state_dir=tmp_path, ttl=timedelta(days=1))
        forever = Retention(ledger=ledger, delete=ledger.delete, state_dir=tmp_path, ttl=None)
        assert [await keeps.expire(), await forever.expire()] == [0, 0]
        deletes = Retention(ledger=ledger, delete=ledger.delete, state_dir=tmp_path, ttl=TINY)
        assert await deletes.expire() == len(old)
        page = await ledger.list("p", states=(), limit=99, before=None)
        assert page.jobs == (waits,)
    assert all(f"{job.name} ({job.uid}) has expired and was deleted" in caplog.text for job in old)


async def test_a_job_that_cannot_be_deleted_does_not_keep_the_others(tmp_path: Path) -> None:
    async with table(tmp_path) as ledger:
        old = [await ended(ledger, f"old-{number}") for number in range(2 * BATCH)]
        stuck = {job.uid for job in old[: BATCH + 1]}

        async def delete(job: Job) -> None:
            if job.uid in stuck:
                raise ServiceError("STORAGE_DENIED", "no")
            await ledger.delete(job)

        await asyncio.sleep(0.01)
        assert await Retention(ledger=ledger, delete=delete, state_dir=tmp_path, ttl=TINY).expire() == BATCH - 1
        assert {job.uid for job in (await ledger.list("p", states=(), limit=99, before=None)).jobs} == stuck


async def test_one_that_another_server_was_faster_with_is_gone_all_the_same(tmp_path: Path) -> None:
    async with table(tmp_path) as ledger:
        await ended(ledger, "old")

        async def delete(job: Job) -> None:
            await ledger.delete(job)
            raise ServiceError("JOB_NOT_FOUND", "somebody else has deleted it")

        await asyncio.sleep(0.01)
        assert await Retention(ledger=ledger, delete=delete, state_dir=tmp_path, ttl=TINY).expire() == 1


async def test_folders_of_jobs_that_are_gone_are_removed(tmp_path: Path) -> None:
    async with table(tmp_path) as ledger:
        kept = await ended(ledger, "kept")
        for uid in (kept.uid, "gone"):
            job_folder(tmp_path, uid).mkdir(parents=True)
            (job_folder(tmp_path, uid) / "log.txt").write_text("x")
        retention = Retention(ledger=ledger, delete=ledger.delete, state_dir=tmp_path, ttl=None)
        await retention.sweep()
        assert [path.name for path in (tmp_path / "jobs").iterdir()] == [kept.uid]
