"""List and delete."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import Any

import grpc
import pytest
from eif.influence.v1 import influence_service_pb2 as service_pb2
from eif.influence.v1 import job_pb2

from tests.influence_app import (
    FOREVER,
    PARENT,
    SUCCEED,
    Influence,
    refusal,
    refusal_of,
    running_influence,
)
from tests.waiting import eventually


class TestList:
    async def list(self, influence: Influence, **fields: Any) -> service_pb2.ListInfluenceJobsResponse:
        request = service_pb2.ListInfluenceJobsRequest(**{"parent": PARENT, **fields})
        return await influence.stub.ListInfluenceJobs(request)

    async def test_jobs_come_newest_first_in_pages(self, influence: Influence) -> None:
        made = [await influence.create(influence.rank_job(FOREVER)) for _ in range(5)]
        names: list[str] = []
        token = ""
        while True:
            page = await self.list(influence, page_size=2, page_token=token)
            names += [job.name for job in page.influence_jobs]
            token = page.next_page_token
            if not token:
                break
        assert names == [job.name for job in reversed(made)]
        assert len((await self.list(influence, page_size=10_000)).influence_jobs) == 5
        assert not (await self.list(influence, parent="projects/other")).influence_jobs

    async def test_jobs_are_listed_by_state(self, influence: Influence) -> None:
        ended = await influence.run(SUCCEED)
        running = await influence.create(influence.rank_job(FOREVER))
        await influence.until(running, job_pb2.JOB_STATE_RUNNING)
        waiting = await influence.create(influence.rank_job(FOREVER))
        for states, jobs in [
            ([job_pb2.JOB_STATE_SUCCEEDED], [ended]),
            ([job_pb2.JOB_STATE_PENDING, job_pb2.JOB_STATE_RUNNING], [waiting, running]),
            ([job_pb2.JOB_STATE_FAILED], []),
        ]:
            page = await self.list(influence, states=states)
            assert [job.name for job in page.influence_jobs] == [job.name for job in jobs]

    @pytest.mark.parametrize(
        ("fields", "reason", "field"),
        [
            ({"parent": ""}, "ARGUMENT_INVALID", "parent"),
            ({"page_size": -1}, "ARGUMENT_INVALID", "page_size"),
            ({"page_token": "x"}, "PAGE_TOKEN_INVALID", "page_token"),
            ({"states": [99]}, "ARGUMENT_INVALID", "states"),
            ({"states": [0]}, "ARGUMENT_INVALID", "states"),
        ],
    )
    async def test_what_is_refused(self, influence: Influence, fields: dict[str, Any], reason: str, field: str) -> None:
        refused = await refusal(self.list(influence, **fields))
        assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
        assert refused.metadata == {"field": field}

    async def test_a_token_of_another_list_is_refused(self, influence: Influence) -> None:
        for _ in range(2):
            await influence.create(influence.rank_job(FOREVER))
        token = (await self.list(influence, page_size=1)).next_page_token
        for fields in ({"parent": "projects/q"}, {"states": [job_pb2.JOB_STATE_PENDING]}):
            refused = await refusal(self.list(influence, page_token=token, **fields))
            assert refused.reason == "PAGE_TOKEN_INVALID"


async def test_a_job_goes_with_its_results(influence: Influence) -> None:
    ended = await influence.run({"do": "log", "text": "x\n"}, SUCCEED)
    other = await influence.run(SUCCEED)
    results, folder = influence.root / "results", influence.state_dir / "jobs"
    assert {path.name for path in results.iterdir()} == {ended.uid, other.uid}
    await influence.delete(ended)
    assert (await refusal(influence.get(ended))).reason == "JOB_NOT_FOUND"
    assert (await refusal(influence.delete(ended))).reason == "JOB_NOT_FOUND"
    assert [path for path in results.rglob("*") if path.is_file() and ended.uid in str(path)] == []
    assert not (folder / ended.uid).exists()
    assert (await influence.get(other)) == other
    assert (results / other.uid / "MANIFEST.json").exists()


async def test_a_delete_can_be_made_again(influence: Influence) -> None:
    ended = await influence.run(SUCCEED)
    for _ in range(3):
        await influence.delete(ended, allow_missing=True)
    assert (await refusal(influence.get(ended))).reason == "JOB_NOT_FOUND"
    running = await influence.create(influence.rank_job(FOREVER))
    assert (await refusal(influence.delete(running, allow_missing=True))).reason == "JOB_NOT_ENDED"
    other = await influence.run(SUCCEED)
    assert (await refusal(influence.delete(other, allow_missing=True, etag="x"))).reason == "ETAG_MISMATCH"


async def test_only_an_ended_job_is_deleted(influence: Influence) -> None:
    running = await influence.create(influence.rank_job(FOREVER))
    waiting = await influence.create(influence.rank_job(FOREVER))
    for job in (running, waiting):
        refused = await refusal(influence.delete(job))
        assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "JOB_NOT_ENDED")


async def test_another_etag_is_refused(influence: Influence) -> None:
    ended = await influence.run(SUCCEED)
    refused = await refusal(influence.delete(ended, etag="x"))
    assert (refused.code, refused.reason) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    assert (influence.root / "results" / ended.uid / "MANIFEST.json").exists()
    await influence.delete(ended, etag=ended.etag)


async def test_the_name_is_free_again_and_the_request_is_not(influence: Influence) -> None:
    request_id = str(uuid.uuid4())
    job = influence.rank_job(SUCCEED)
    first = await influence.ended(await influence.create(job, influence_job_id="a", request_id=request_id))
    await influence.delete(first)
    refused = await refusal(influence.create(job, influence_job_id="a", request_id=request_id))
    assert refused.reason == "JOB_NOT_FOUND"
    assert (await influence.create(job, influence_job_id="a")).uid != first.uid


async def test_of_two_at_a_time_one_deletes(influence: Influence) -> None:
    ended = await influence.run(SUCCEED)
    outcomes = await asyncio.gather(*(influence.delete(ended) for _ in range(4)), return_exceptions=True)
    refusals = [refusal_of(error) for error in outcomes if isinstance(error, grpc.aio.AioRpcError)]
    assert outcomes.count(None) == 1
    assert [refused.reason for refused in refusals] == ["JOB_NOT_FOUND"] * 3


async def test_ended_jobs_go_after_their_time_with_their_results(tmp_path: Path) -> None:
    async with running_influence(tmp_path, job_ttl_days=2 / 86_400, max_running_jobs=2) as influence:
        running = await influence.create(influence.rank_job(FOREVER, train="forever.jsonl"))
        assert not running.HasField("expire_time")
        ended = await influence.run(SUCCEED)
        assert ended.expire_time.ToMilliseconds() == ended.end_time.ToMilliseconds() + 2000
        folder = influence.root / "results" / ended.uid
        await eventually(lambda: not list(folder.rglob("*.parquet")))

        async def is_gone() -> bool:
            listed = await influence.stub.ListInfluenceJobs(service_pb2.ListInfluenceJobsRequest(parent=PARENT))
            return [job.name for job in listed.influence_jobs] == [running.name]

        async with asyncio.timeout(20):
            while not await is_gone():  # noqa: ASYNC110  what is waited for is on the server
                await asyncio.sleep(0.05)
        assert (await refusal(influence.get(ended))).reason == "JOB_NOT_FOUND"
        assert not (influence.state_dir / "jobs" / ended.uid).exists()
