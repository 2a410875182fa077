"""How jobs end: results, failures, crashes."""

from __future__ import annotations

import asyncio
import signal
import time

import grpc
from eif.influence.v1 import job_pb2

from tests.influence_app import (
    SUCCEED,
    Influence,
    refusal_in,
)


async def test_a_failure_carries_its_reason(influence: Influence) -> None:
    step = {"do": "fail", "reason": "MANIFEST_INVALID", "message": "train.jsonl, line 3", "metadata": {"line": "3"}}
    ended = await influence.run(step)
    assert ended.state == job_pb2.JOB_STATE_FAILED
    refused = refusal_in(ended.error)
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MANIFEST_INVALID")
    assert (refused.message, refused.metadata) == ("train.jsonl, line 3", {"line": "3"})
    assert not ended.HasField("output")


async def test_a_reason_that_is_none_becomes_internal(influence: Influence) -> None:
    ended = await influence.run({"do": "fail", "reason": "WHATEVER", "message": "x"})
    assert refusal_in(ended.error).reason == "INTERNAL"


async def test_an_exit_without_a_word_fails_with_the_log(influence: Influence) -> None:
    ended = await influence.run({"do": "log", "text": "Traceback: boom\n"}, {"do": "exit", "code": 7})
    refused = refusal_in(ended.error)
    assert (ended.state, ended.attempt) == (job_pb2.JOB_STATE_FAILED, 1)
    assert (refused.reason, refused.metadata) == ("WORKER_CRASHED", {"exit_code": "7"})
    assert "exit code 7" in refused.message
    assert "Traceback: boom" in refused.message


async def test_success_without_a_manifest_is_none(influence: Influence) -> None:
    ended = await influence.run({"do": "say_succeeded"})
    refused = refusal_in(ended.error)
    assert (ended.state, refused.reason) == (job_pb2.JOB_STATE_FAILED, "WORKER_CRASHED")
    assert "no MANIFEST.json" in refused.message


async def test_a_manifest_decides_also_after_a_crash(influence: Influence) -> None:
    ended = await influence.run(SUCCEED, {"do": "kill", "signal": signal.SIGKILL})
    assert (ended.state, ended.attempt) == (job_pb2.JOB_STATE_SUCCEEDED, 1)


async def test_a_killed_process_is_tried_again(influence: Influence) -> None:
    kill = {"do": "kill", "signal": signal.SIGKILL}
    ended = await influence.run({**kill, "attempt": 1}, {**kill, "attempt": 2}, SUCCEED)
    assert (ended.state, ended.attempt) == (job_pb2.JOB_STATE_SUCCEEDED, 3)


async def test_but_not_for_ever(influence: Influence) -> None:
    ended = await influence.run({"do": "log", "text": "so much memory\n"}, {"do": "kill", "signal": signal.SIGKILL})
    refused = refusal_in(ended.error)
    assert (ended.state, ended.attempt) == (job_pb2.JOB_STATE_FAILED, 3)
    assert (refused.reason, refused.metadata) == ("WORKER_CRASHED", {"signal": "SIGKILL"})
    assert "killed by SIGKILL" in refused.message
    assert "so much memory" in refused.message
    assert (await influence.run(SUCCEED)).state == job_pb2.JOB_STATE_SUCCEEDED


async def test_a_manifest_of_another_job_is_corrupt(influence: Influence) -> None:
    go = influence.root / "go"
    created = await influence.create(influence.rank_job({"do": "wait_for", "path": str(go)}, {"do": "exit", "code": 0}))
    influence.put(f"results/{created.uid}/MANIFEST.json", '{"uid": "x"}')
    go.write_text("")
    refused = refusal_in((await influence.ended(created)).error)
    assert refused.reason == "RESULT_CORRUPT"
    assert "MANIFEST.json" in refused.message


async def test_an_ended_job_keeps_its_log_and_nothing_else(influence: Influence) -> None:
    ended = await influence.run({"do": "log", "text": "hello\n"}, SUCCEED)
    folder = influence.state_dir / "jobs" / ended.uid
    deadline = time.monotonic() + 10
    while {path.name for path in folder.iterdir()} != {"log.txt"}:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
