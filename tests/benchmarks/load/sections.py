"""What is measured: each section drives a server process, and returns figures."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import numpy as np
import psutil
from eif.influence.v1 import influence_service_pb2 as service_pb2
from eif.influence.v1 import influence_service_pb2_grpc

from tests.benchmarks.load.echo import METHOD
from tests.benchmarks.load.jobs import FOREVER, job_of, ranked
from tests.benchmarks.load.steps import steps
from tests.influence_process import CALL_S, InfluenceProcess, influence_process
from tests.postgres import find_postgres, running_postgres

UNARY_CALLS, WARM_CALLS = 3_000, 200
ROWS, CHUNK_ROWS = 1_000_000, 10_000
WATCHERS, CHANNELS = 1_000, 10
CANCELLED, AT_A_TIME = 10_000, 50
STARTS = 5
SETTLED_S = 2.0


def ready(folder: Path) -> dict[str, float]:
    """Seconds from the start of the process until it is ready, median of five, and its memory when idle."""
    seconds, memory = [], []
    for number in range(STARTS):
        (folder / str(number)).mkdir()
        with influence_process(folder / str(number)) as server:
            seconds.append(server.start_s)
            time.sleep(SETTLED_S)
            memory.append(_memory(server))
    return {"ready_s": float(np.median(seconds)), "idle_bytes": float(np.median(memory))}


def unary(folder: Path) -> dict[str, float]:
    """Milliseconds of one call after the other, beside a bare grpc.aio echo in turn, and of Create; on SQLite."""
    return _unary(folder)


def unary_postgresql(folder: Path) -> dict[str, float]:
    """The same on PostgreSQL, where the table is asked at every call as other servers may have changed it."""
    programs = find_postgres()
    if programs is None:
        return {}
    with TemporaryDirectory(prefix="pg-") as place:
        Path(place).chmod(0o755)
        with running_postgres(programs, Path(place) / "server") as postgres:
            return _unary(folder, EIF_INFLUENCE_DATABASE_URL=postgres.url)


def _unary(folder: Path, **environ: str) -> dict[str, float]:
    with influence_process(folder, scripted=True, **environ) as server, _echo_channel() as channel:
        job = server.create(job_of(server, FOREVER))
        echo: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
        info, get = service_pb2.GetServerInfoRequest(), service_pb2.GetInfluenceJobRequest(name=job.name)
        calls: dict[str, Callable[[], object]] = {
            "echo": lambda: echo(b"request", timeout=CALL_S),
            "info": lambda: server.stub.GetServerInfo(info, timeout=CALL_S),
            "get": lambda: server.stub.GetInfluenceJob(get, timeout=CALL_S),
        }
        taken = _in_turn(calls)
        creates = [_timed(lambda: server.create(job_of(server, FOREVER))) for _ in range(200)]
    figures = {f"{name}_p{p}_ms": float(np.percentile(taken[name], p)) for name in taken for p in (50, 99)}
    figures |= {f"create_p{p}_ms": float(np.percentile(creates, p)) for p in (50, 99)}
    figures["info_over_echo_p50"] = figures["info_p50_ms"] / figures["echo_p50_ms"]
    figures["get_over_echo_p50"] = figures["get_p50_ms"] / figures["echo_p50_ms"]
    return figures


def rows(folder: Path) -> dict[str, float]:
    """Rows a second of a ranking of a million, streamed to a client that decodes them."""
    with influence_process(folder) as server:
        job = server.ended(server.create(job_of(server, ranked(folder, ROWS))))
        first = _stream(server, job.name)
        again = [_stream(server, job.name) for _ in range(3)]
        peak = _memory(server)
    return {
        "rows": ROWS,
        "first_chunk_cold_s": first[0],
        "first_chunk_s": float(np.median([each[0] for each in again])),
        "rows_per_s_cold": ROWS / first[1],
        "rows_per_s": ROWS / float(np.median([each[1] for each in again])),
        "server_bytes": peak,
    }


def watchers(folder: Path) -> dict[str, float]:
    """A thousand watches of one job over ten connections: until all are open, and until all see its end."""
    with influence_process(folder) as server:
        job = server.create(job_of(server, FOREVER))
        before = _memory(server)
        opened, ended = asyncio.run(_watch_together(server, job.name))
        return {"watchers": WATCHERS, "open_s": opened, "told_s": ended, "growth_bytes": _memory(server) - before}


def cancelled(folder: Path) -> dict[str, float]:
    """Ten thousand watches that are given up after their first event: what the server has grown by."""
    with influence_process(folder) as server:
        job = server.create(job_of(server, FOREVER))
        asyncio.run(_give_up(server, job.name, CANCELLED // 10))
        before, started = _memory(server), time.perf_counter()
        asyncio.run(_give_up(server, job.name, CANCELLED))
        seconds = time.perf_counter() - started
        time.sleep(SETTLED_S)
        return {"streams": CANCELLED, "seconds": seconds, "growth_bytes": _memory(server) - before}


SECTIONS: Mapping[str, Callable[[Path], dict[str, float]]] = {
    each.__name__: each for each in (ready, unary, unary_postgresql, steps, rows, watchers, cancelled)
}


def _memory(server: InfluenceProcess) -> float:
    return float(psutil.Process(server.process.pid).memory_info().rss)


@contextmanager
def _echo_channel() -> Iterator[grpc.Channel]:
    command = [sys.executable, "-m", "tests.benchmarks.load.echo"]
    with ExitStack() as stack:
        process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        stack.callback(process.kill)
        assert process.stdout is not None
        yield stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{process.stdout.readline().strip()}"))


def _in_turn(calls: Mapping[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Milliseconds of every call; one of each after the other, so that a busy moment hits all alike."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(WARM_CALLS + UNARY_CALLS):
        for name, call in calls.items():
            milliseconds = _timed(call)
            if number >= WARM_CALLS:
                taken[name].append(milliseconds)
    return taken


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - started)


def _stream(server: InfluenceProcess, name: str) -> tuple[float, float]:
    """Seconds until the first chunk and until the last."""
    request = service_pb2.StreamRankedSamplesRequest(name=name, chunk_rows=CHUNK_ROWS)
    started, seen, first = time.perf_counter(), 0, 0.0
    for chunk in server.stub.StreamRankedSamples(request, timeout=10 * CALL_S):
        first = first or time.perf_counter() - started
        seen += len(chunk.sample_ids)
    assert seen == ROWS
    return first, time.perf_counter() - started


async def _watch_together(server: InfluenceProcess, name: str) -> tuple[float, float]:
    request, started = service_pb2.WatchInfluenceJobRequest(name=name), time.perf_counter()
    options = [("grpc.use_local_subchannel_pool", 1)]  # else all channels share one connection
    channels = [grpc.aio.insecure_channel(server.address, options=options) for _ in range(CHANNELS)]
    stubs = [influence_service_pb2_grpc.InfluenceServiceStub(channel) for channel in channels]
    calls = [stubs[number % CHANNELS].WatchInfluenceJob(request, timeout=10 * CALL_S) for number in range(WATCHERS)]
    await asyncio.gather(*(call.read() for call in calls))
    opened = time.perf_counter() - started
    started = time.perf_counter()
    await asyncio.to_thread(server.stub.CancelInfluenceJob, service_pb2.CancelInfluenceJobRequest(name=name))
    last = await asyncio.gather(*(_last_state(call) for call in calls))
    assert len(set(last)) == 1
    ended = time.perf_counter() - started
    await asyncio.gather(*(channel.close() for channel in channels))
    return opened, ended


async def _last_state(
    call: grpc.aio.UnaryStreamCall[service_pb2.WatchInfluenceJobRequest, service_pb2.InfluenceJobEvent],
) -> int:
    state = 0
    while isinstance(event := await call.read(), service_pb2.InfluenceJobEvent):
        state = event.influence_job.state
    return state


async def _give_up(server: InfluenceProcess, name: str, streams: int) -> None:
    request = service_pb2.WatchInfluenceJobRequest(name=name)
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = influence_service_pb2_grpc.InfluenceServiceStub(channel)

        async def one() -> None:
            call = stub.WatchInfluenceJob(request, timeout=CALL_S)
            await call.read()
            call.cancel()

        for _ in range(streams // AT_A_TIME):
            await asyncio.gather(*(one() for _ in range(AT_A_TIME)))
