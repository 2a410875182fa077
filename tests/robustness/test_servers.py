"""A server that is killed, stopped or left by its callers, among calls. Numbers are those of README.md."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from eif.influence.v1 import influence_service_pb2 as service_pb2
from eif.influence.v1 import influence_service_pb2_grpc, job_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.influence.servicer import NAME
from tests.influence_process import InfluenceProcess
from tests.objects import S3Objects
from tests.ops import fetch
from tests.robustness.calls import Reader, Refusal, listed, refusal
from tests.robustness.rows import ranking
from tests.robustness.s3_world import is_for
from tests.s3_proxy import Fault, S3Proxy, calm
from tests.servers import Servers, Step, until
from tests.tcp_proxy import TcpProxy
from tests.weed import Weed

DATA_LOSS = grpc.StatusCode.DATA_LOSS
RUNNING, SUCCEEDED = job_pb2.JOB_STATE_RUNNING, job_pb2.JOB_STATE_SUCCEEDED
FOREVER: Step = {"do": "forever"}
ROWS = 20_000
STALLED_BYTES = 8 << 20
KILLED = """
import os, signal
from services.influence.sql_job_store import SqlJobStore
create = SqlJobStore.create
def killed(self, *arguments, **options):
    if {after}:
        create(self, *arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)
SqlJobStore.create = killed
"""


@pytest.mark.parametrize("after", [False, True], ids=["before the commit", "after the commit"])
def test_a_server_killed_in_a_create_has_made_one_job_once_the_request_is_repeated(
    lone: Servers, *, after: bool
) -> None:
    """3."""
    job, request_id = lone.job(lone.succeed()), str(uuid.uuid4())
    first = lone.start("a", prelude=KILLED.format(after=after))
    failed = refusal(lambda: first.create(job, request_id=request_id))
    assert failed is not None
    assert failed.code is grpc.StatusCode.UNAVAILABLE
    first.close()
    second = lone.start("a")
    assert len(listed(second)) == after
    made = second.create(job, request_id=request_id)
    assert [each.uid for each in listed(second)] == [made.uid]
    assert second.ended(made).state == SUCCEEDED
    assert second.create(job, request_id=request_id).uid == made.uid


def test_a_stream_goes_on_where_a_killed_server_left_it(lone: Servers) -> None:
    """4."""
    step, digest = ranking(lone.folder, ROWS)
    first = lone.start("a")
    reader = Reader(first.ended(first.create(lone.job(step))).name)
    for number in range(3):
        server = first if number == 0 else lone.start("a")
        kill = partial(kill_at, server, reader, reader.chunks + 20 + number)
        failed = refusal(partial(reader.read, server, then=kill))
        assert failed is None or failed.code is grpc.StatusCode.UNAVAILABLE
        server.close()
    reader.read(lone.start("a"))
    assert reader.digest() == digest


def kill_at(server: InfluenceProcess, reader: Reader, chunks: int) -> None:
    """SIGKILL once so many chunks were read."""
    if reader.chunks == chunks:
        server.process.kill()


@dataclass
class Load:
    """Calls without end on one server, until it takes no more; what came of them.

    Attributes:
        server: The server.
        job: What is created.
        made: Request ids, and the uids of the jobs that were acknowledged.
        failed: How calls failed.
    """

    server: InfluenceProcess
    job: job_pb2.InfluenceJob
    made: dict[str, str] = field(default_factory=dict)
    failed: list[grpc.StatusCode] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)

    def run(self) -> None:
        """Until a call fails."""
        while True:
            request_id = str(uuid.uuid4())
            self.asked.add(request_id)
            try:
                made = self.server.create(self.job, request_id=request_id, validate_only=False)
                self.made[request_id] = made.uid
                self.server.get(made)
            except grpc.RpcError as error:
                self.failed.append(error.code())
                return


def serving(server: InfluenceProcess) -> Iterator[int]:
    """What a watch of its health is told, to its end."""
    stub: Any = health_pb2_grpc.HealthStub(server.channel)
    with suppress(grpc.RpcError):
        for answer in stub.Watch(health_pb2.HealthCheckRequest(service=NAME), timeout=60):
            yield answer.status


def test_a_server_that_is_stopped_under_load_leaves_nobody_in_doubt(lone: Servers) -> None:
    """5."""
    step, digest = ranking(lone.folder, ROWS)
    first = lone.start("a", EIF_INFLUENCE_MAX_PENDING_JOBS="10000")
    ranked = first.ended(first.create(lone.job(step)))
    load = Load(first, lone.job(FOREVER, train="forever.jsonl"))
    reader, health = Reader(ranked.name, chunk_rows=10), serving(first)
    assert next(health) == health_pb2.HealthCheckResponse.SERVING
    with ThreadPoolExecutor(8) as pool:
        callers = [pool.submit(load.run) for _ in range(6)]
        stream = pool.submit(refusal, lambda: reader.read(first, then=lambda: time.sleep(0.002)))
        until(lambda: len(load.made) > 20 and reader.chunks > 5)
        first.process.terminate()
        assert next(health) == health_pb2.HealthCheckResponse.NOT_SERVING
        for caller in callers:
            caller.result(60)
        broken = stream.result(60)
    assert first.process.wait(60) == 0
    assert broken is not None
    assert (broken.code, broken.reason) == (grpc.StatusCode.UNAVAILABLE, "SERVER_STOPPING")
    assert set(load.failed) == {grpc.StatusCode.UNAVAILABLE}
    first.close()
    second = lone.start("a", EIF_INFLUENCE_MAX_PENDING_JOBS="10000")
    reader.read(second)
    assert reader.digest() == digest
    kept = {job.uid for job in listed(second)} - {ranked.uid}
    assert set(load.made.values()) <= kept
    again = {second.create(load.job, request_id=request_id).uid for request_id in load.asked}
    assert kept <= again
    assert len(again) == len(load.asked)


def test_callers_whose_connections_are_reset_leave_nothing_behind(lone: Servers) -> None:
    """6."""
    server = lone.start("a", EIF_INFLUENCE_OPS_LISTEN="127.0.0.1:0")
    go = lone.folder / "go"
    created = server.create(lone.job({"do": "wait_for", "path": str(go)}, lone.succeed()))
    until(lambda: server.get(created).state == RUNNING)
    request = service_pb2.WatchInfluenceJobRequest(name=created.name)
    with TcpProxy(int(server.address.rpartition(":")[2])) as proxy:
        for _ in range(5):
            with grpc.insecure_channel(proxy.target) as channel:
                stub = influence_service_pb2_grpc.InfluenceServiceStub(channel)
                watches = [stub.WatchInfluenceJob(request) for _ in range(20)]
                for watch in watches:
                    next(watch)
                proxy.cut()
                for watch in watches:
                    failed = refusal(partial(list, watch))
                    assert failed is not None
                    assert failed.code is grpc.StatusCode.UNAVAILABLE
    until(lambda: handled(server) == 100)
    go.touch()
    assert server.ended(created).state == SUCCEEDED


def handled(server: InfluenceProcess) -> float:
    """Watches that have ended, as the server counts them."""
    lines = fetch(server.ops_address, "/metrics").body.splitlines()
    name = "grpc_server_handled_total{"
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name) and "WatchInfluenceJob" in line)


def test_a_reader_that_stalls_holds_little_and_keeps_nobody_waiting(lone: Servers) -> None:
    """8."""
    step, digest = ranking(lone.folder, 500_000)
    server = lone.start("a")
    job = server.ended(server.create(lone.job(step)))
    warm = Reader(job.name, chunk_rows=10_000)
    warm.read(server)
    assert warm.digest() == digest
    process = psutil.Process(server.process.pid)
    before = process.memory_info().rss
    stalled = [stalled_stream(server, job) for _ in range(4)]
    others = [Reader(job.name, chunk_rows=10_000) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda reader: reader.read(server), others))
    assert {reader.digest() for reader in others} == {digest}
    assert server.get(job).state == SUCCEEDED
    assert process.memory_info().rss - before < len(stalled) * STALLED_BYTES
    for channel, call in stalled:
        call.cancel()
        channel.close()


def stalled_stream(server: InfluenceProcess, job: job_pb2.InfluenceJob) -> tuple[grpc.Channel, Any]:
    """A stream of the ranking on a connection of its own, of which only the first chunk is read."""
    channel = grpc.insecure_channel(server.address, options=[("grpc.use_local_subchannel_pool", 1)])
    stub = influence_service_pb2_grpc.InfluenceServiceStub(channel)
    call = stub.StreamRankedSamples(service_pb2.StreamRankedSamplesRequest(name=job.name, chunk_rows=10_000))
    next(call)
    return channel, call


def test_a_table_that_arrives_damaged_is_told_and_never_handed_on(weed: Weed, tmp_path: Path) -> None:
    """13."""
    with S3Proxy(weed) as proxy, ExitStack() as stack:
        objects = S3Objects(weed, proxy, tmp_path / "credentials")
        world = Servers(tmp_path, "", stack, objects)
        server = world.start("a")
        step, digest = ranking(tmp_path, ROWS)
        job = server.ended(server.create(world.job(step)))
        assert job.state == SUCCEEDED
        proxy.rule = lambda request: Fault(flip=is_for(request, "GET", "ranking.parquet"))
        reader, asked = Reader(job.name), len(proxy.requests)
        for _ in range(3):
            assert refusal(lambda: reader.read(server)) == Refusal(code=DATA_LOSS, reason="RESULT_CORRUPT")
        assert reader.chunks == 0
        assert [method for method, _ in proxy.requests[asked:]] == ["GET"] * 3
        proxy.rule = calm
        reader.read(server)
        assert reader.digest() == digest
