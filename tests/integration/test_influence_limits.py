"""What becomes of a job whose process broke a limit."""

from __future__ import annotations

from pathlib import Path

import grpc
from eif.influence.v1 import job_pb2

from tests.influence_app import FOREVER, SUCCEED, refusal_in, running_influence

MIB = 1 << 20


async def test_too_much_memory_fails_at_once_and_the_queue_goes_on(tmp_path: Path) -> None:
    async with running_influence(tmp_path, max_job_memory_bytes=200 * MIB) as influence:
        ended = await influence.run({"do": "take_memory", "count": 400 * MIB}, FOREVER)
        refused = refusal_in(ended.error)
        assert (ended.state, ended.attempt) == (job_pb2.JOB_STATE_FAILED, 1)
        assert (refused.code, refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OUT_OF_MEMORY")
        assert refused.metadata["limit_bytes"] == str(200 * MIB)
        assert (await influence.run(SUCCEED)).state == job_pb2.JOB_STATE_SUCCEEDED


async def test_too_long_fails_at_once(tmp_path: Path) -> None:
    async with running_influence(tmp_path, job_time_limit_s=1.0) as influence:
        ended = await influence.run(FOREVER)
        refused = refusal_in(ended.error)
        assert (ended.state, ended.attempt) == (job_pb2.JOB_STATE_FAILED, 1)
        assert (refused.code, refused.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "TIME_LIMIT_EXCEEDED")


async def test_a_result_that_was_written_in_time_counts(tmp_path: Path) -> None:
    async with running_influence(tmp_path, job_time_limit_s=1.0) as influence:
        assert (await influence.run(SUCCEED, FOREVER)).state == job_pb2.JOB_STATE_SUCCEEDED


async def test_a_job_that_hangs_is_tried_again(tmp_path: Path) -> None:
    async with running_influence(tmp_path, job_stall_s=1.0) as influence:
        ended = await influence.run({**FOREVER, "attempt": 1}, SUCCEED)
        assert (ended.state, ended.attempt) == (job_pb2.JOB_STATE_SUCCEEDED, 2)


async def test_but_not_for_ever(tmp_path: Path) -> None:
    async with running_influence(tmp_path, job_stall_s=0.5, max_attempts=2) as influence:
        ended = await influence.run(FOREVER)
        refused = refusal_in(ended.error)
        assert (ended.state, ended.attempt) == (job_pb2.JOB_STATE_FAILED, 2)
        assert (refused.reason, refused.metadata) == ("JOB_STALLED", {"limit_s": "0.5"})
        assert "2 times" in refused.message
