"""What metrics and traces cost a server at rest and a call.

PYTHONPATH=. python tests/benchmarks/observability.py [--rounds 5] [--calls 2000]
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import psutil
from eif.influence.v1 import influence_service_pb2 as service_pb2

from services.common.call_metrics import CallMetrics
from services.common.call_tracing import CallTracing
from services.common.calls import CallObserver
from services.common.metrics import new_registry
from services.common.server import start_server
from services.common.telemetry import JsonFormatter
from services.common.tracing import NoTracing
from tests.echo import SERVICE, register_echo
from tests.influence_process import influence_process
from tests.ops import fetch
from tests.otlp import running_collector

OPS = {"EIF_INFLUENCE_OPS_LISTEN": "127.0.0.1:0"}


def tell(line: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{line}\n")


def log_to_nowhere() -> None:
    """Format every line of the log, as a server does, and throw it away."""
    handler = logging.StreamHandler(open(os.devnull, "w"))  # noqa: PTH123, SIM115  open as long as the process is
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level="INFO", handlers=[handler], force=True)


def at_rest(folder: Path, environ: dict[str, str]) -> tuple[float, float, float, int]:
    """Seconds to ready, resident MB at rest and after ten scrapes, bytes of a scrape."""
    with influence_process(folder, scripted=False, **environ) as server:
        server.stub.GetServerInfo(service_pb2.GetServerInfoRequest())
        process = psutil.Process(server.process.pid)
        before, size = process.memory_info().rss, 0
        for _ in range(10 if server.ops_address else 0):
            size = len(fetch(server.ops_address, "/metrics").body)
        return server.start_s, before / 1e6, process.memory_info().rss / 1e6, size


def measure_rest(rounds: int) -> None:
    """Print a row for a server without, with metrics, and with metrics and traces."""
    tell("| server | ready, s (median, worst) | resident, MB | after 10 scrapes, MB | a scrape, kB |")
    tell("|---|---|---|---|---|")
    for name, environ, traced in (("plain", {}, False), ("ops port", OPS, False), ("ops port and traces", OPS, True)):
        rows = []
        with running_collector() if traced else nullcontext() as collector:
            more = collector.environ if collector is not None else {}
            for _ in range(rounds):
                with TemporaryDirectory() as folder:
                    rows.append(at_rest(Path(folder), {**environ, **more}))
        seconds, rest, scraped, size = zip(*rows, strict=True)
        tell(
            f"| {name} | {statistics.median(seconds):.2f}, {max(seconds):.2f} | {max(rest):.0f} | {max(scraped):.0f} "
            f"| {max(size) / 1000:.0f} |"
        )


async def answer(request: bytes, _context: Any) -> bytes:
    return request


async def time_calls(address: str, calls: int) -> list[float]:
    """Seconds of each of some calls, one after the other."""
    async with grpc.aio.insecure_channel(address) as channel:
        method: Any = channel.unary_unary(f"/{SERVICE}/Unary")
        taken = []
        for _ in range(calls):
            started = time.perf_counter()
            await method(b"x" * 100)
            taken.append(time.perf_counter() - started)
        return taken[calls // 10 :]


async def bare(calls: int) -> list[float]:
    """Against a server without any interceptor."""
    server = grpc.aio.server()
    register_echo(answer)(server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    taken = await time_calls(address, calls)
    await server.stop(None)
    return taken


async def observed(calls: int, observers: Sequence[CallObserver]) -> list[float]:
    """Against a server as the services have it, with some observers."""
    running = await start_server(listen="127.0.0.1:0", services={SERVICE: register_echo(answer)}, observers=observers)
    taken = await time_calls(running.address, calls)
    await running.server.stop(None)
    return taken


async def measure_calls(calls: int, rounds: int) -> None:
    """Print a row for each kind of server; rounds are mixed, so that other load of the machine hits all alike."""
    taken: dict[str, list[float]] = {"bare grpc.aio": [], "call log": [], "call log, metrics": []}
    for _ in range(rounds):
        taken["bare grpc.aio"] += await bare(calls)
        taken["call log"] += await observed(calls, ())
        metrics = CallMetrics(new_registry("benchmark"), [SERVICE])
        taken["call log, metrics"] += await observed(calls, [CallTracing(NoTracing()), metrics])
    tell("\n| unary call of 100 bytes, one after the other | p50, ms | p99, ms |\n|---|---|---|")
    for name, seconds in taken.items():
        cuts = statistics.quantiles(seconds, n=100)
        tell(f"| {name} | {1000 * cuts[49]:.3f} | {1000 * cuts[98]:.3f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=2000)
    arguments = parser.parse_args()
    measure_rest(arguments.rounds)
    log_to_nowhere()
    asyncio.run(measure_calls(arguments.calls, arguments.rounds))


if __name__ == "__main__":
    main()
