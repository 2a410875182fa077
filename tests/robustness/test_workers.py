"""Job processes that die, are held up or cancelled, under servers that go on. Numbers are those of README.md."""

from __future__ import annotations

import random
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import psutil
import pytest
from eif.influence.v1 import influence_service_pb2 as service_pb2
from eif.influence.v1 import job_pb2, results_pb2

from services.influence.spec_writer import write_rank
from tests.influence_process import InfluenceProcess, influence_process
from tests.robustness.calls import refusal
from tests.robustness.s3_world import Outage, S3World, is_for
from tests.s3_proxy import Fault, Request, S3Proxy
from tests.servers import Servers, lines, until
from tests.weed import Weed

RUNNING, SUCCEEDED, FAILED = job_pb2.JOB_STATE_RUNNING, job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_FAILED
CANCELLED = job_pb2.JOB_STATE_CANCELLED
OUTAGE_S = 9.0
"""Longer than the store repeats a request by itself."""


def digests(job: job_pb2.InfluenceJob) -> dict[str, tuple[str, int]]:
    """Of the tables of a job, which must have succeeded."""
    assert job.state == SUCCEEDED, job
    return {table.name: (table.sha256, table.rows) for table in job.output.tables}


class Killer:
    """A rule: SIGKILL to the job processes of a server at one request after the other.

    Args:
        server: Whose.
        requests: Method and end of the path of each.
    """

    def __init__(self, server: InfluenceProcess, *requests: tuple[str, str]) -> None:
        self._server, self.left, self._lock = server, list(requests), threading.Lock()

    def __call__(self, request: Request) -> Fault:
        with self._lock:
            if self.left and is_for(request, *self.left[0]):
                self.left.pop(0)
                for child in psutil.Process(self._server.process.pid).children():
                    child.kill()
        return Fault()


def test_a_job_whose_process_is_killed_again_and_again_writes_the_same_tables(weed: Weed, tmp_path: Path) -> None:
    """1. While it reads, while it has read half, and when half of its result is written."""
    with S3Proxy(weed) as proxy:
        world = S3World(tmp_path / "world", weed, proxy)
        environ = {**world.through_proxy().to_environ(), "EIF_INFLUENCE_MAX_ATTEMPTS": "4"}
        job = job_pb2.InfluenceJob(rank=write_rank(world.spec))
        with influence_process(tmp_path, scripted=False, results=world.place.uri("out"), **environ) as server:
            killer = proxy.rule = Killer(
                server, ("GET", "train.jsonl"), ("GET", "train/0030.png"), ("PUT", "attempt-3/pairs.parquet")
            )
            ended = server.ended(server.create(job))
            assert (killer.left, ended.attempt) == ([], 4)
            calm = server.ended(server.create(job))
            assert calm.attempt == 1
            assert digests(ended) == digests(calm)
            names = {name.partition("/")[0] for name in world.left_of(ended.uid)}
            assert names == {"MANIFEST.json", "attempt-4"}


def test_a_job_that_kills_its_process_every_time_fails_and_the_queue_goes_on(lone: Servers) -> None:
    """29."""
    server, runs = lone.start("a", EIF_INFLUENCE_MAX_ATTEMPTS="3"), lone.folder / "runs"
    poison = lone.job({"do": "append", "path": str(runs)}, {"do": "kill", "signal": 9}, train="poison.jsonl")
    poisoned, waiting = server.create(poison), server.create(lone.job(lone.succeed()))
    ended = server.ended(poisoned)
    assert (ended.state, ended.attempt) == (FAILED, 3)
    assert [line.split()[0] for line in lines(runs)] == ["1", "2", "3"]
    assert server.ended(waiting).state == SUCCEEDED


def test_cancels_that_race_with_the_end_of_jobs_leave_one_end(lone: Servers) -> None:
    """24."""
    server, rng = lone.start("a", EIF_INFLUENCE_MAX_RUNNING_JOBS="4"), random.Random(24)
    job, barrier = lone.job({"do": "count", "total": 2, "every_s": 0.05}, lone.succeed()), threading.Barrier(2)

    def cancel(created: job_pb2.InfluenceJob, delay_s: float) -> list[int]:
        time.sleep(delay_s)
        barrier.wait(20)
        return [server.cancel(created).state for _ in range(3)]

    ends = []
    with ThreadPoolExecutor(2) as pool:
        for number in range(16):
            created, delay_s = server.create(job), rng.uniform(0, 0.5)
            answers = [pool.submit(cancel, created, delay_s) for _ in range(2)]
            ended = server.ended(created)
            seen = [state for answer in answers for state in answer.result(60)]
            assert ended.state in {SUCCEEDED, CANCELLED}
            assert server.cancel(created) == server.get(created) == ended, number
            assert {state for state in seen if state in {SUCCEEDED, CANCELLED}} <= {ended.state}
            assert ("MANIFEST.json" in lone.stored(ended)) is (ended.state == SUCCEEDED)
            ends.append(ended.state)
    assert set(ends) == {SUCCEEDED, CANCELLED}, "all of them came at the same time"


@pytest.mark.parametrize(
    "fault",
    [pytest.param(Fault(status=503), id="503"), pytest.param(Fault(drop=True), id="reset", marks=pytest.mark.slow)],
)
def test_a_job_whose_commit_is_held_up_shows_nothing_before_it(weed: Weed, tmp_path: Path, fault: Fault) -> None:
    """14."""
    with S3Proxy(weed) as proxy:
        world = S3World(tmp_path / "world", weed, proxy)
        environ = world.through_proxy().to_environ()
        with influence_process(tmp_path, scripted=False, results=world.place.uri("out"), **environ) as server:
            outage = proxy.rule = Outage(fault, method="PUT", end="MANIFEST.json", seconds=OUTAGE_S)
            created = server.create(job_pb2.InfluenceJob(rank=write_rank(world.spec)), request_id=str(uuid.uuid4()))
            assert outage.begun.wait(60)
            request = service_pb2.ListJobResultsRequest(name=created.name, table=results_pb2.RESULT_TABLE_PAIRS)
            for _ in range(10):
                assert server.get(created).state == RUNNING
                failed = refusal(lambda: server.stub.ListJobResults(request, timeout=60))
                assert failed is not None
                assert (failed.code, failed.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "JOB_NOT_SUCCEEDED")
            ended = server.ended(created)
            assert ended.attempt == 1
            calm = server.ended(server.create(job_pb2.InfluenceJob(rank=write_rank(world.spec))))
            assert digests(ended) == digests(calm)
            until(lambda: server.terminate() == 0)
