"""Several servers share one job table: each job runs once, and every server can do everything with it."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from eif.influence.v1 import influence_service_pb2 as service_pb2
from eif.influence.v1 import job_pb2

from tests.conftest import REPO
from tests.servers import LEASE_S, Servers, Step, lines, until

FOREVER: Step = {"do": "forever"}
FAIL: Step = {"do": "fail", "reason": "MANIFEST_INVALID", "message": "line 3"}
SUCCEEDED, CANCELLED = job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_CANCELLED
SEEN_S = 3.0
"""Within which a server sees what another does, with room for a busy machine."""


def test_each_job_runs_once_whoever_takes_it(servers: Servers) -> None:
    running = [servers.start(name) for name in "abc"]
    runs = servers.folder / "runs"
    job = servers.job(
        {"do": "append", "path": str(runs)}, {"do": "count", "total": 3, "every_s": 0.1}, servers.succeed()
    )
    created = [running[number % 3].create(job) for number in range(9)]
    ended = [running[(number + 1) % 3].ended(each) for number, each in enumerate(created)]
    assert [(each.uid, each.state, each.attempt) for each in ended] == [(each.uid, SUCCEEDED, 1) for each in created]
    assert [line.split()[0] for line in lines(runs)] == ["1"] * 9
    assert all(server.get(each) == other for server in running for each, other in zip(created, ended, strict=True))
    assert sum("attempt 1 starts" in line for server in running for line in lines(server.log)) == 9
    assert sum("attempt 1 starts" in server.log.read_text() for server in running) >= 2, "one server ran them all"


def test_a_request_that_is_raced_over_two_servers_makes_one_job(servers: Servers) -> None:
    running = [servers.start(name) for name in "ab"]
    job, request_ids = servers.job(servers.succeed()), [str(uuid.uuid4()) for _ in range(5)]
    for request_id in request_ids:
        with ThreadPoolExecutor(8) as pool:
            made = list(
                pool.map(lambda number: running[number % 2].create(job, request_id=request_id).uid, range(8))  # noqa: B023  awaited inside of the loop
            )
        assert len(set(made)) == 1
    listed = running[0].stub.ListInfluenceJobs(service_pb2.ListInfluenceJobsRequest(parent="projects/p"))
    assert len(listed.influence_jobs) == len(request_ids)


def test_a_watch_follows_a_job_that_runs_elsewhere_and_a_cancel_reaches_it(servers: Servers) -> None:
    owner = servers.start("a")
    created = owner.create(servers.job({"do": "count", "total": 1000, "every_s": 0.1}))
    until(lambda: owner.get(created).progress.done >= 1)
    other = servers.start("b", EIF_INFLUENCE_MAX_RUNNING_JOBS="1")
    seen: list[int] = []
    for event in other.watch(created):
        assert event.attempt == 1
        if event.progress.done > max(seen, default=0):
            seen.append(event.progress.done)
        if len(seen) == 3:
            break
    behind = owner.get(created).progress.done - other.get(created).progress.done
    assert behind < 10 * (SEEN_S + 2)

    watching = owner.watch(created)
    assert next(watching).state == job_pb2.JOB_STATE_RUNNING
    asked = time.monotonic()
    assert other.cancel(created).state in {job_pb2.JOB_STATE_CANCELLING, CANCELLED}
    ended = list(watching)[-1]
    assert ended.state == CANCELLED
    assert time.monotonic() - asked < SEEN_S + 5
    assert other.cancel(created) == other.get(created) == ended


def test_a_watch_sees_the_end_of_a_job_elsewhere(servers: Servers) -> None:
    owner = servers.start("a")
    go = servers.folder / "go"
    created = owner.create(servers.job({"do": "wait_for", "path": str(go)}, servers.succeed()))
    until(lambda: owner.get(created).state == job_pb2.JOB_STATE_RUNNING)
    other = servers.start("b")
    watching = other.watch(created)
    assert next(watching).state == job_pb2.JOB_STATE_RUNNING
    go.write_text("")
    ended = list(watching)[-1]
    assert (ended.state, ended.attempt) == (SUCCEEDED, 1)
    assert ended == owner.get(created)


def test_a_waiting_job_is_cancelled_and_deleted_by_any_server(servers: Servers) -> None:
    one = servers.start("a")
    running = one.create(servers.job(FOREVER, train="forever.jsonl"))
    until(lambda: one.get(running).state == job_pb2.JOB_STATE_RUNNING)
    waiting = one.create(servers.job(FOREVER, train="forever.jsonl"), influence_job_id="waits")
    watching = one.watch(waiting)
    assert next(watching).state == job_pb2.JOB_STATE_PENDING
    other = servers.start("b", EIF_INFLUENCE_MAX_RUNNING_JOBS_PER_PROJECT="1")
    assert other.cancel(waiting).state == CANCELLED
    assert list(watching)[-1].state == CANCELLED
    other.stub.DeleteInfluenceJob(service_pb2.DeleteInfluenceJobRequest(name=waiting.name))
    with pytest.raises(grpc.RpcError) as gone:
        one.get(waiting)
    assert gone.value.code() is grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.RpcError) as refused:
        other.stub.DeleteInfluenceJob(service_pb2.DeleteInfluenceJobRequest(name=running.name))
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION


def end_of(watching: Iterator[job_pb2.InfluenceJob]) -> object:
    """The last state that a watch tells, or the status with which it fails."""
    try:
        return list(watching)[-1].state
    except grpc.RpcError as error:
        return error.code()


def test_a_watch_of_a_job_that_another_server_deletes_ends(servers: Servers) -> None:
    one = servers.start("a")
    running = one.create(servers.job(FOREVER, train="forever.jsonl"))
    until(lambda: one.get(running).state == job_pb2.JOB_STATE_RUNNING)
    waiting = one.create(servers.job(FOREVER, train="forever.jsonl"))
    watching = one.watch(waiting)
    assert next(watching).state == job_pb2.JOB_STATE_PENDING
    other = servers.start("b", EIF_INFLUENCE_MAX_RUNNING_JOBS_PER_PROJECT="1")
    other.cancel(waiting)
    other.stub.DeleteInfluenceJob(service_pb2.DeleteInfluenceJobRequest(name=waiting.name))
    assert end_of(watching) in {CANCELLED, grpc.StatusCode.NOT_FOUND}, "the former if it was seen between the two"


def test_results_are_read_and_deleted_from_any_server(servers: Servers) -> None:
    owner = servers.start("a")
    ended = owner.ended(owner.create(servers.job(servers.succeed("what a table holds"))))
    other = servers.start("b")
    request = service_pb2.ReadJobFileRequest(name=ended.name, file="ranking.parquet")
    assert b"".join(part.data for part in other.stub.ReadJobFile(request)) == b"what a table holds"
    other.stub.DeleteInfluenceJob(service_pb2.DeleteInfluenceJobRequest(name=ended.name))
    assert servers.stored(ended) == {}


def test_job_processes_are_not_told_of_the_database(servers: Servers) -> None:
    server = servers.start("a", PGPASSWORD="hush")
    names = ("EIF_INFLUENCE_DATABASE_URL", "PGPASSWORD", "EIF_STORAGE_FILE_ROOTS")
    ended = server.ended(server.create(servers.job(*({"do": "environ", "name": name} for name in names), FAIL)))
    log = (server.state_dir / "jobs" / ended.uid / "log.txt").read_text().splitlines()
    assert log[:2] == [f"{names[0]}=None", f"{names[1]}=None"]
    assert str(servers.folder) in log[2]
    assert "hush" not in server.log.read_text()


_CLOCK = """
import datetime as real
from services.influence import clock
class Shifted(real.datetime):
    @classmethod
    def now(cls, tz=None):
        return real.datetime.now(tz) + real.timedelta(hours={hours})
clock.datetime = Shifted
"""


def test_clocks_of_servers_do_not_matter(servers: Servers) -> None:
    ahead = servers.start("a", prelude=_CLOCK.format(hours=1))
    runs = servers.folder / "runs"
    created = ahead.create(
        servers.job({"do": "append", "path": str(runs)}, {**FOREVER, "attempt": 1}, servers.succeed())
    )
    assert created.create_time.seconds - time.time() > 3000, "the clock was not shifted"
    until(lambda: lines(runs))
    behind = servers.start("b", prelude=_CLOCK.format(hours=-1), EIF_INFLUENCE_HEARTBEAT_S="1")
    watched = time.monotonic()
    for event in behind.watch(created):
        assert (event.state, event.attempt) == (job_pb2.JOB_STATE_RUNNING, 1)
        if time.monotonic() - watched > 2 * LEASE_S:
            break
    ahead.kill()
    ended = behind.ended(created)
    assert (ended.state, ended.attempt) == (SUCCEEDED, 2)
    assert len(lines(runs)) == 2


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mysql://eif:hush@db/jobs", "EIF_INFLUENCE_DATABASE_URL: Value error, it must start with postgresql://"),
        ("postgresql://eif:hush@127.0.0.1:1/jobs", "the job table of EIF_INFLUENCE_DATABASE_URL cannot be used"),
        ("postgresql://eif:hush@127.0.0.1:port/jobs", "EIF_INFLUENCE_DATABASE_URL is no URL of a PostgreSQL database"),
    ],
)
def test_a_table_that_cannot_be_used_is_told_at_the_start(tmp_path: Path, url: str, says: str) -> None:
    started = subprocess.run(
        [sys.executable, "-m", "services.influence", "--listen", "127.0.0.1:0", "--state-dir", str(tmp_path)],
        cwd=REPO,
        env={"PATH": "/usr/bin:/bin", "EIF_INFLUENCE_DATABASE_URL": url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert started.returncode == 2, started.stderr
    assert says in started.stderr
    assert "hush" not in started.stderr + started.stdout
