"""Cancel, at every state."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import grpc
import pytest
from eif.influence.v1 import job_pb2

from tests.influence_app import (
    ENDED,
    FOREVER,
    SUCCEED,
    Influence,
    Step,
    refusal_in,
    refusal_of,
    running_influence,
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


async def in_state(influence: Influence, state: Any) -> job_pb2.InfluenceJob:
    """A job in a state in which it stays by itself."""
    fail: Step = {"do": "fail", "reason": "MANIFEST_INVALID", "message": "m"}
    steps_of: dict[Any, list[Step]] = {
        job_pb2.JOB_STATE_SUCCEEDED: [SUCCEED],
        job_pb2.JOB_STATE_FAILED: [fail],
        job_pb2.JOB_STATE_CANCELLING: [
            {"do": "ignore_sigterm"},
            {"do": "progress", "done": 1, "total": 9},
            {"do": "wait_for", "path": str(influence.root / "go")},
        ],
    }
    if state == job_pb2.JOB_STATE_PENDING:
        before = await influence.create(influence.rank_job(FOREVER, train="before.jsonl"))
        await influence.until(before, job_pb2.JOB_STATE_RUNNING)
        return await influence.create(influence.rank_job(FOREVER))
    created = await influence.create(influence.rank_job(*steps_of.get(state, [FOREVER])))
    if state == job_pb2.JOB_STATE_CANCELLING:
        async with aclosing(influence.events(created)) as events:
            async for event in events:
                if event.influence_job.progress.done:
                    break
        return await influence.cancel(created)
    if state == job_pb2.JOB_STATE_CANCELLED:
        await influence.cancel(created)
    return await influence.until(created, state)


@pytest.mark.parametrize("state", sorted(set(job_pb2.JobState.values()) - {0}), ids=job_pb2.JobState.Name)
@pytest.mark.parametrize("verb", ["cancel", "delete"])
async def test_at_every_state_the_second_time_changes_nothing(tmp_path: Path, state: Any, verb: str) -> None:
    async with running_influence(tmp_path, cancel_grace_s=60.0) as influence:
        job = await in_state(influence, state)
        assert job.state == state
        ended = state in ENDED
        if verb == "cancel":
            first, second = await influence.cancel(job), await influence.cancel(job)
            assert (first == job) is (ended or state == job_pb2.JOB_STATE_CANCELLING)
            assert second == first or second.state == job_pb2.JOB_STATE_CANCELLED
            assert first.state in {job_pb2.JOB_STATE_CANCELLING, job_pb2.JOB_STATE_CANCELLED, state}
        else:
            outcomes = [await outcome(influence.delete(job)) for _ in range(2)]
            assert outcomes == (["done", "JOB_NOT_FOUND"] if ended else ["JOB_NOT_ENDED"] * 2)
            assert ended or (await influence.get(job)) == job
        influence.put("go")


async def outcome(call: Awaitable[object]) -> str:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return refusal_of(error).reason
    return "done"
