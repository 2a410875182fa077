"""A database that is killed and comes back: calls say so, jobs go on, and nothing acknowledged is lost."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator

import grpc
import psutil
import pytest
from eif.influence.v1 import influence_service_pb2 as service_pb2
from eif.influence.v1 import job_pb2
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status

from tests.databases import real_postgres
from tests.postgres import Postgres
from tests.servers import LEASE_S, Servers, Step, lines, until

FOREVER: Step = {"do": "forever"}
RUNNING, SUCCEEDED = job_pb2.JOB_STATE_RUNNING, job_pb2.JOB_STATE_SUCCEEDED
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    """Each test has its own, which it may kill."""
    with real_postgres() as server:
        yield server


def reason(error: grpc.RpcError) -> str:
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # has what is needed of a call
    assert status is not None
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    return info.reason


def test_a_database_that_is_away_for_a_moment_costs_nothing(servers: Servers, postgres: Postgres) -> None:
    owner, go = servers.start("a", EIF_INFLUENCE_LEASE_S="600"), servers.folder / "go"
    created = owner.create(servers.job({"do": "wait_for", "path": str(go)}, servers.succeed()))
    until(lambda: owner.get(created).state == RUNNING)
    waiting = owner.create(servers.job(servers.succeed(), train="next.jsonl"))
    watching = owner.watch(created)
    assert next(watching).state == RUNNING
    postgres.kill()
    request_id = str(uuid.uuid4())
    calls: tuple[Callable[[], object], ...] = (
        lambda: owner.create(servers.job(servers.succeed(), train="new.jsonl"), request_id=request_id),
        lambda: owner.get(waiting),
        lambda: owner.cancel(waiting),
        lambda: next(owner.watch(waiting)),
    )
    for call in calls:
        with pytest.raises(grpc.RpcError) as refused:
            call()
        assert (refused.value.code(), reason(refused.value)) == (UNAVAILABLE, "JOB_TABLE_UNAVAILABLE")
    go.write_text("")
    postgres.start()
    made = owner.create(servers.job(servers.succeed(), train="new.jsonl"), request_id=request_id)
    assert (owner.ended(created).state, owner.ended(created).attempt) == (SUCCEEDED, 1)
    assert list(watching)[-1].state == SUCCEEDED
    listed = owner.stub.ListInfluenceJobs(service_pb2.ListInfluenceJobsRequest(parent="projects/p")).influence_jobs
    assert [job.uid for job in listed] == [made.uid, waiting.uid, created.uid]
    assert [owner.ended(job).state for job in (waiting, made)] == [SUCCEEDED] * 2


def test_a_server_that_cannot_renew_stops_its_job_and_goes_on_when_the_database_is_back(
    servers: Servers, postgres: Postgres
) -> None:
    owner, runs = servers.start("a"), servers.folder / "runs"
    steps: list[Step] = [{"do": "append", "path": str(runs)}, {**FOREVER, "attempt": 1}, servers.succeed()]
    created = owner.create(servers.job(*steps))
    until(lambda: lines(runs))
    process = int(lines(runs)[0].split()[1])
    postgres.kill()
    killed_at = time.monotonic()
    until(lambda: not psutil.pid_exists(process) or psutil.Process(process).status() == psutil.STATUS_ZOMBIE)
    assert time.monotonic() - killed_at < LEASE_S + 3, "the process outlived the lease"
    assert len(lines(runs)) == 1
    postgres.start()
    ended = owner.ended(created)
    assert (ended.state, ended.attempt) == (SUCCEEDED, 2)


def test_a_watch_of_a_job_elsewhere_ends_with_a_reason_when_the_database_is_away(
    servers: Servers, postgres: Postgres
) -> None:
    owner = servers.start("a", EIF_INFLUENCE_LEASE_S="600")
    created = owner.create(servers.job(FOREVER))
    until(lambda: owner.get(created).state == RUNNING)
    other = servers.start("b")
    watching = other.watch(created)
    assert next(watching).state == RUNNING
    postgres.kill()
    with pytest.raises(grpc.RpcError) as refused:
        list(watching)
    assert (refused.value.code(), reason(refused.value)) == (UNAVAILABLE, "JOB_TABLE_UNAVAILABLE")
    postgres.start()
    assert next(other.watch(created)).state == RUNNING


def test_a_database_that_does_not_answer_is_as_bad_as_none(servers: Servers, postgres: Postgres) -> None:
    """As when the network swallows everything: no call ends, and the job is stopped in time all the same."""
    owner, runs = servers.start("a"), servers.folder / "runs"
    steps: list[Step] = [{"do": "append", "path": str(runs)}, {**FOREVER, "attempt": 1}, servers.succeed()]
    created = owner.create(servers.job(*steps))
    until(lambda: lines(runs))
    process = psutil.Process(int(lines(runs)[0].split()[1]))
    postgres.freeze()
    frozen_at = time.monotonic()
    try:
        until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)
        assert time.monotonic() - frozen_at < LEASE_S + 3, "the process outlived the lease"
        request = service_pb2.GetInfluenceJobRequest(name=created.name)
        with pytest.raises(grpc.RpcError) as late:
            owner.stub.GetInfluenceJob(request, timeout=0.5)
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    finally:
        postgres.thaw()
    ended = owner.ended(created)
    assert (ended.state, ended.attempt) == (SUCCEEDED, 2)
