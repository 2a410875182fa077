"""InfluenceService over a real channel: create, and what the server says of itself."""

from __future__ import annotations

import asyncio
import time
import uuid
from pathlib import Path

import grpc
import pytest
from eif.influence.v1 import influence_service_pb2 as service_pb2
from eif.influence.v1 import job_pb2
from google.protobuf import timestamp_pb2

from tests.influence_app import (
    ENDED,
    FOREVER,
    PARENT,
    SUCCEED,
    Change,
    Influence,
    refusal,
    refusal_of,
    running_influence,
)


async def test_a_job_runs_and_its_results_are_told(influence: Influence) -> None:
    job = influence.rank_job(SUCCEED, display_name="ü", labels={"team": "x"})
    created = await influence.create(job, influence_job_id="first")
    assert created.name == "projects/p/influenceJobs/first"
    assert created.state in {job_pb2.JOB_STATE_PENDING, job_pb2.JOB_STATE_RUNNING}
    assert (created.display_name, dict(created.labels), created.attempt) == ("ü", {"team": "x"}, 1)
    assert uuid.UUID(created.uid).version == 7
    assert created.create_time.seconds == pytest.approx(time.time(), abs=60)

    ended = await influence.ended(created)
    assert ended.state == job_pb2.JOB_STATE_SUCCEEDED
    folder = f"file://{influence.root}/results/{created.uid}"
    assert ended.output.manifest_uri == f"{folder}/MANIFEST.json"
    assert {table.name: (table.uri, table.rows) for table in ended.output.tables} == {
        "ranking": (f"{folder}/attempt-1/ranking.parquet", 3),
        "quarantine": (f"{folder}/attempt-1/quarantine.parquet", 0),
    }
    assert dict(ended.output.figures) == {"train_samples": 3.0}
    assert dict(ended.output.provenance)["device"] == "cpu"
    assert created.create_time.ToNanoseconds() <= ended.start_time.ToNanoseconds() < ended.end_time.ToNanoseconds()
    assert not ended.HasField("error")
    assert await influence.get(created) == ended


async def test_the_defaults_that_hold_are_written_out(influence: Influence) -> None:
    created = await influence.create(influence.rank_job(SUCCEED), validate_only=True)
    assert created.rank.top_k == 100
    assert created.rank.queries.kind == job_pb2.QuerySelection.KIND_CONFUSION_PAIRS
    steps = created.rank.influence.unit_steps
    assert (steps.radius, steps.steps) == (0.2, 20)
    assert created.rank.run.max_quarantined_fraction == 0.01
    assert created.output_uri_prefix == f"file://{influence.root}/results"


async def test_ways_of_theta_are_written_out_with_their_defaults(influence: Influence) -> None:
    job = influence.rank_job(SUCCEED)
    job.rank.influence.unit_steps.SetInParent()
    job.rank.influence.metric = job_pb2.METRIC_KFAC
    created = await influence.create(job, validate_only=True)
    options = created.rank.influence
    assert (options.unit_steps.radius, options.unit_steps.steps) == (0.2, 20)
    assert (options.metric, options.damping) == (job_pb2.METRIC_KFAC, 10.0)
    job.rank.influence.first_order.SetInParent()
    assert (await influence.create(job, validate_only=True)).rank.influence.first_order.radius == 1.0


async def test_what_only_the_server_sets_is_cleared_and_not_refused(influence: Influence) -> None:
    job = influence.rank_job(
        SUCCEED,
        name="projects/other/influenceJobs/other",
        uid="mine",
        state=job_pb2.JOB_STATE_SUCCEEDED,
        progress=job_pb2.JobProgress(stage="x"),
        attempt=9,
        create_time=timestamp_pb2.Timestamp(seconds=1),
        end_time=timestamp_pb2.Timestamp(seconds=1),
        error={"code": 3},
        output=job_pb2.JobOutput(manifest_uri="file:///etc/passwd"),
        etag="x",
    )
    created = await influence.create(job, influence_job_id="mine", validate_only=True)
    assert created.name == "projects/p/influenceJobs/mine"
    assert (created.state, created.attempt) == (job_pb2.JOB_STATE_PENDING, 1)
    assert created.uid != "mine"
    assert created.create_time.seconds > 1
    for field in ("progress", "end_time", "error", "output"):
        assert not created.HasField(field)


async def test_validate_only_checks_and_keeps_nothing(influence: Influence) -> None:
    created = await influence.create(influence.rank_job(SUCCEED), validate_only=True)
    assert (await refusal(influence.get(created))).reason == "JOB_NOT_FOUND"
    bad = influence.rank_job(SUCCEED)
    bad.rank.model.uri = f"file://{influence.root}/none/model.json"
    assert (await refusal(influence.create(bad, validate_only=True))).reason == "OBJECT_NOT_FOUND"
    await influence.create(influence.rank_job(SUCCEED), influence_job_id="taken")
    taken = influence.create(influence.rank_job(SUCCEED), influence_job_id="taken", validate_only=True)
    assert (await refusal(taken)).reason == "JOB_ALREADY_EXISTS"


async def test_a_name_is_taken_once(influence: Influence) -> None:
    await influence.create(influence.rank_job(SUCCEED), influence_job_id="mine")
    refused = await refusal(influence.create(influence.rank_job(SUCCEED), influence_job_id="mine"))
    assert (refused.code, refused.reason) == (grpc.StatusCode.ALREADY_EXISTS, "JOB_ALREADY_EXISTS")
    assert refused.metadata["name"] == "projects/p/influenceJobs/mine"


async def test_the_same_request_makes_one_job_also_at_the_same_time(influence: Influence) -> None:
    request_id = str(uuid.uuid4())
    job = influence.rank_job(SUCCEED)
    made = await asyncio.gather(*(influence.create(job, request_id=request_id) for _ in range(10)))
    assert len({job.uid for job in made}) == 1
    ended = await influence.ended(made[0])
    assert await influence.create(job, request_id=request_id.upper()) == ended
    listed = await influence.stub.ListInfluenceJobs(service_pb2.ListInfluenceJobsRequest(parent=PARENT))
    assert len(listed.influence_jobs) == 1


async def test_the_same_request_is_known_after_its_inputs_are_gone(influence: Influence) -> None:
    request_id = str(uuid.uuid4())
    job = influence.rank_job(SUCCEED)
    made = await influence.create(job, request_id=request_id)
    await influence.ended(made)
    (influence.root / "test.csv").unlink()
    assert (await influence.create(job, request_id=request_id)).uid == made.uid


async def test_defaults_given_or_left_out_are_the_same_request(influence: Influence) -> None:
    request_id = str(uuid.uuid4())
    job = influence.rank_job(SUCCEED)
    made = await influence.create(job, request_id=request_id)
    job.rank.top_k = 100
    job.rank.influence.num_thetas = 2
    assert (await influence.create(job, request_id=request_id)).uid == made.uid


@pytest.mark.parametrize(
    "change",
    [
        lambda job: job.labels.update(a="b"),
        lambda job: setattr(job.rank, "top_k", 5),
        lambda job: setattr(job.rank.influence, "radius", 2.0),
        lambda job: setattr(job, "display_name", "other"),
    ],
)
async def test_another_body_with_the_same_request_id_is_refused(influence: Influence, change: Change) -> None:
    request_id = str(uuid.uuid4())
    job = influence.rank_job(SUCCEED)
    made = await influence.create(job, request_id=request_id)
    change(job)
    refused = await refusal(influence.create(job, request_id=request_id))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED")
    assert refused.metadata == {"request_id": request_id, "job": made.name}


async def test_a_full_queue_says_when_to_try_again(tmp_path: Path) -> None:
    async with running_influence(tmp_path, max_pending_jobs=2) as influence:
        running = await influence.create(influence.rank_job(FOREVER))
        await influence.until(running, job_pb2.JOB_STATE_RUNNING)
        for _ in range(2):
            await influence.create(influence.rank_job(FOREVER))
        for validate_only in (False, True):
            refused = await refusal(influence.create(influence.rank_job(FOREVER), validate_only=validate_only))
            assert (refused.code, refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
            assert refused.details["RetryInfo"].retry_delay.seconds > 0
            assert refused.metadata == {"pending": "2", "limit": "2", "retry_after_s": "5.0"}


async def test_a_project_has_its_own_limit(tmp_path: Path) -> None:
    async with running_influence(tmp_path, max_pending_jobs_per_project=1) as influence:
        running = await influence.create(influence.rank_job(FOREVER))
        await influence.until(running, job_pb2.JOB_STATE_RUNNING)
        await influence.create(influence.rank_job(FOREVER))
        call = influence.create(influence.rank_job(FOREVER))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        refused = refusal_of(caught.value)
        assert (refused.code, refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        assert (refused.metadata["project"], refused.metadata["limit"]) == ("p", "1")
        trailers = dict(caught.value.trailing_metadata())
        assert trailers["grpc-retry-pushback-ms"] == str(refused.details["RetryInfo"].retry_delay.ToMilliseconds())
        other = service_pb2.CreateInfluenceJobRequest(parent="projects/q", influence_job=influence.rank_job(FOREVER))
        assert (await influence.stub.CreateInfluenceJob(other)).state == job_pb2.JOB_STATE_PENDING


async def test_jobs_start_in_the_order_in_which_they_came(influence: Influence) -> None:
    log = influence.root / "order"
    jobs = []
    for number in range(3):
        steps = [
            {"do": "touch", "path": str(influence.root / f"started{number}")},
            {"do": "append", "path": str(log)},
        ]
        job = influence.rank_job(*steps, SUCCEED, train=f"train{number}.jsonl")
        jobs.append(await influence.create(job, influence_job_id=f"job-{9 - number}"))
    ended = [await influence.ended(job) for job in jobs]
    starts = [job.start_time.ToNanoseconds() for job in ended]
    ends = [job.end_time.ToNanoseconds() for job in ended]
    assert starts == sorted(starts)
    assert all(start >= end for start, end in zip(starts[1:], ends[:-1], strict=True))


async def test_so_many_jobs_run_at_a_time(tmp_path: Path) -> None:
    async with running_influence(tmp_path, max_running_jobs=2) as influence:
        go = influence.root / "go"
        steps = [{"do": "wait_for", "path": str(go)}, SUCCEED]
        jobs = [await influence.create(influence.rank_job(*steps)) for _ in range(3)]
        for job in jobs[:2]:
            await influence.until(job, job_pb2.JOB_STATE_RUNNING)
        assert (await influence.get(jobs[2])).state == job_pb2.JOB_STATE_PENDING
        go.write_text("")
        assert {(await influence.ended(job)).state for job in jobs} == {job_pb2.JOB_STATE_SUCCEEDED}


async def test_the_server_says_what_it_is(influence: Influence) -> None:
    info = await influence.stub.GetServerInfo(service_pb2.GetServerInfoRequest())
    assert info.version
    assert info.devices[0] == "cpu"
    assert list(info.uri_schemes) == ["file"]
    assert info.default_output_uri_prefix == f"file://{influence.root}/results"
    assert (info.max_running_jobs, info.max_pending_jobs) == (1, 1000)


async def test_every_state_is_known_to_the_tests() -> None:
    states = set(job_pb2.JobState.values()) - {job_pb2.JOB_STATE_UNSPECIFIED}
    assert states - ENDED == {
        job_pb2.JOB_STATE_PENDING,
        job_pb2.JOB_STATE_RUNNING,
        job_pb2.JOB_STATE_CANCELLING,
    }
