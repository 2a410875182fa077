"""Cancel, at every state."""

from __future__ import annotations

import asyncio
import time

import grpc
from eif.influence.v1 import job_pb2

from tests.influence_app import (
    FOREVER,
    SUCCEED,
    Influence,
    refusal_in,
)
from tests.waiting import eventually


async def test_a_waiting_job_is_cancelled_at_once_and_never_runs(influence: Influence) -> None:
    running = await influence.create(influence.rank_job(FOREVER))
    mark = influence.root / "mark"
    waiting = await influence.create(influence.rank_job({"do": "touch", "path": str(mark)}, train="b.jsonl"))
    cancelled = await influence.cancel(waiting)
    assert cancelled.state == job_pb2.JOB_STATE_CANCELLED
    assert refusal_in(cancelled.error).reason == "JOB_CANCELLED"
    assert cancelled.error.code == grpc.StatusCode.CANCELLED.value[0]
    await influence.cancel(running)
    await influence.ended(running)
    assert (await influence.run(SUCCEED)).state == job_pb2.JOB_STATE_SUCCEEDED
    assert not mark.exists()


async def test_a_running_job_stops_within_seconds(influence: Influence) -> None:
    job = await influence.create(influence.rank_job({"do": "progress", "done": 1, "total": 9}, FOREVER))
    async for event in influence.events(job):
        if event.influence_job.progress.done:
            break
    started = time.monotonic()
    cancelling = await influence.cancel(job)
    assert cancelling.state == job_pb2.JOB_STATE_CANCELLING
    assert (await influence.cancel(job)).state in {job_pb2.JOB_STATE_CANCELLING, job_pb2.JOB_STATE_CANCELLED}
    ended = await influence.ended(job)
    assert ended.state == job_pb2.JOB_STATE_CANCELLED
    assert time.monotonic() - started < 4
    assert await influence.cancel(job) == ended


async def test_a_job_that_will_not_stop_is_killed(influence: Influence) -> None:
    job = influence.rank_job({"do": "ignore_sigterm"}, {"do": "progress", "done": 1, "total": 9}, FOREVER)
    created = await influence.create(job)
    async for event in influence.events(created):
        if event.influence_job.progress.done:
            break
    await influence.cancel(created)
    assert (await influence.ended(created)).state == job_pb2.JOB_STATE_CANCELLED


async def test_a_cancel_that_comes_too_late_changes_nothing(influence: Influence) -> None:
    mark = influence.root / "mark"
    steps = [{"do": "ignore_sigterm"}, SUCCEED, {"do": "touch", "path": str(mark)}, FOREVER]
    created = await influence.create(influence.rank_job(*steps))
    await eventually(mark.exists)
    assert (await influence.cancel(created)).state == job_pb2.JOB_STATE_CANCELLING
    ended = await influence.ended(created)
    assert ended.state == job_pb2.JOB_STATE_SUCCEEDED
    assert ended.output.manifest_sha256
    assert await influence.cancel(created) == ended


async def test_cancelled_right_after_the_create_it_ends_all_the_same(influence: Influence) -> None:
    for delay in (0.0, 0.002, 0.01, 0.03):
        created = await influence.create(influence.rank_job(FOREVER))
        await asyncio.sleep(delay)
        await influence.cancel(created)
        assert (await influence.ended(created)).state == job_pb2.JOB_STATE_CANCELLED
