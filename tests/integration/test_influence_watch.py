"""Watch: the job now and at each change, for many and for those who go away."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import Any

import grpc
import pytest
from eif.influence.v1 import influence_service_pb2 as service_pb2
from eif.influence.v1 import job_pb2

from services.influence.board import MIN_INTERVAL_S
from services.influence.job import Job
from services.influence.sql_job_store import SqlJobStore
from tests.influence_app import (
    FOREVER,
    SUCCEED,
    Influence,
    refusal,
    running_influence,
)
from tests.waiting import eventually


def steps_of(stage: str, *counts: int, stages_done: int) -> list[dict[str, Any]]:
    return [
        {"do": "progress", "stage": stage, "done": done, "total": counts[-1], "stages_done": stages_done}
        for done in counts
    ]


async def test_a_watch_sees_the_job_now_and_then_each_change(influence: Influence) -> None:
    go = influence.root / "go"
    first = await influence.create(influence.rank_job({"do": "wait_for", "path": str(go)}, SUCCEED, train="a.jsonl"))
    steps = [*steps_of("features", 0, 5, 10, stages_done=1), *steps_of("influence", 0, 4, stages_done=2), SUCCEED]
    second = await influence.create(influence.rank_job(*steps, train="b.jsonl"))
    events = influence.events(second)
    seen = [await anext(events)]
    assert seen[0].influence_job.state == job_pb2.JOB_STATE_PENDING
    go.write_text("")
    seen += [event async for event in events]
    states = [event.influence_job.state for event in seen]
    assert states == sorted(states)
    assert {job_pb2.JOB_STATE_PENDING, job_pb2.JOB_STATE_RUNNING, job_pb2.JOB_STATE_SUCCEEDED} == set(states)
    assert states.count(job_pb2.JOB_STATE_SUCCEEDED) == 1
    stages = [event.influence_job.progress.stages_done for event in seen if event.influence_job.progress.stage]
    assert stages == sorted(stages)
    last = seen[-1].influence_job
    assert (last.progress.stage, last.progress.done, last.progress.total) == ("influence", 4, 4)
    assert (last.progress.unit, last.progress.stages_total) == ("samples", 5)
    etags = [event.influence_job.etag for event in seen if not event.heartbeat]
    assert len(set(etags)) == len(etags)
    assert (await influence.ended(first)).state == job_pb2.JOB_STATE_SUCCEEDED


async def drained(call: grpc.aio.UnaryStreamCall[Any, Any]) -> None:
    """Read a stream to its end."""
    while await call.read() is not grpc.aio.EOF:
        pass


async def test_an_ended_job_is_told_once(influence: Influence) -> None:
    ended = await influence.run(SUCCEED)
    events = [event async for event in influence.events(ended)]
    assert [event.influence_job for event in events] == [ended]
    assert not events[0].heartbeat


async def test_progress_is_told_at_most_five_times_a_second_with_an_eta(influence: Influence) -> None:
    created = await influence.create(influence.rank_job({"do": "count", "total": 300, "every_s": 0.01}, SUCCEED))
    times, etas = [], []
    async for event in influence.events(created):
        if event.influence_job.state == job_pb2.JOB_STATE_RUNNING and event.influence_job.progress.done:
            times.append(event.event_time.ToNanoseconds() / 1e9)
            if event.influence_job.progress.HasField("eta"):
                etas.append(event.influence_job.progress.eta.ToTimedelta().total_seconds())
    assert len(times) <= (times[-1] - times[0]) / MIN_INTERVAL_S + 3
    assert len(times) >= 5
    assert etas[0] > etas[-1]
    assert 0 < etas[0] < 10


async def test_a_quiet_job_sends_heartbeats(tmp_path: Path) -> None:
    async with running_influence(tmp_path, heartbeat_s=0.1) as influence:
        created = await influence.create(influence.rank_job(FOREVER))
        await influence.until(created, job_pb2.JOB_STATE_RUNNING)
        events = influence.events(created)
        assert [(await anext(events)).heartbeat for _ in range(4)] == [False, True, True, True]
        await events.aclose()


async def test_a_watch_of_a_job_that_runs_here_asks_nothing_of_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_influence(tmp_path, heartbeat_s=0.05) as influence:
        created = await influence.create(influence.rank_job(FOREVER))
        await influence.until(created, job_pb2.JOB_STATE_RUNNING)
        asked: list[str] = []
        get = SqlJobStore.get

        def counted(store: SqlJobStore, name: str) -> Job:
            asked.append(name)
            return get(store, name)

        monkeypatch.setattr(SqlJobStore, "get", counted)
        async with aclosing(influence.events(created)) as events:
            await anext(events)
            begun = len(asked)
            assert [(await anext(events)).heartbeat for _ in range(20)] == [True] * 20
        assert asked[begun:] == []


async def test_many_watch_one_job(influence: Influence) -> None:
    go = influence.root / "go"
    created = await influence.create(influence.rank_job({"do": "wait_for", "path": str(go)}, SUCCEED))
    watches = [asyncio.create_task(influence.ended(created)) for _ in range(50)]
    await influence.until(created, job_pb2.JOB_STATE_RUNNING)
    go.write_text("")
    assert {job.state for job in await asyncio.gather(*watches)} == {job_pb2.JOB_STATE_SUCCEEDED}


async def test_watches_that_are_dropped_leave_nothing(influence: Influence) -> None:
    created = await influence.create(influence.rank_job(FOREVER))
    await influence.until(created, job_pb2.JOB_STATE_RUNNING)
    request = service_pb2.WatchInfluenceJobRequest(name=created.name)
    before = len(asyncio.all_tasks())
    for _ in range(20):
        calls = [influence.stub.WatchInfluenceJob(request) for _ in range(10)]
        for call in calls:
            await call.read()
            call.cancel()
    notice = influence.app._board._notices[created.uid]
    await eventually(lambda: notice.watchers == 0)
    await eventually(lambda: len(asyncio.all_tasks()) <= before)
    await influence.cancel(created)
    await influence.ended(created)
    await eventually(lambda: len(influence.app._board) == 0)


async def test_a_server_that_stops_ends_its_watches(tmp_path: Path) -> None:
    async with running_influence(tmp_path) as influence:
        created = await influence.create(influence.rank_job(FOREVER))
        call = influence.stub.WatchInfluenceJob(service_pb2.WatchInfluenceJobRequest(name=created.name))
        await call.read()
        await influence.app.drain()
        refused = await refusal(drained(call))
        assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "SERVER_STOPPING")
