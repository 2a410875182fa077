"""A server as a process: how it says that it is ready, and how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.conftest import REPO
from tests.echo import SERVICE

PROGRAM = """
import asyncio, sys
from pathlib import Path
from services.common.server import serve_until_signal, start_server
from services.common.telemetry import configure_logging
from tests.echo import SERVICE, register_echo

async def body(request, context):
    print("entered", flush=True)
    await asyncio.sleep(float(request))
    return b"done"

async def on_drain():
    print("draining", flush=True)

async def main():
    running = await start_server(listen="127.0.0.1:0", services={SERVICE: register_echo(body)})
    await serve_until_signal(running, grace=30, ready_file=Path(sys.argv[1]), on_drain=on_drain)
    print("ended", flush=True)

configure_logging()
asyncio.run(main())
"""


@contextmanager
def server(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, folder / "ready"], cwd=REPO, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert ready == json.loads((folder / "ready").read_text())
        assert ready["event"] == "listening"
        assert ready["pid"] == process.pid
        yield process, ready["address"]
    finally:
        process.kill()
        process.communicate()


def end_of(process: subprocess.Popen[str], *, within: float) -> str:
    """What is printed until the process ends by itself, with success."""
    printed, _ = process.communicate(timeout=within)
    assert process.returncode == 0
    return printed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_server_ends_at_once_although_health_is_watched(tmp_path: Path, number: signal.Signals) -> None:
    with server(tmp_path) as (process, address), grpc.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        process.send_signal(number)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert list(watch) == []
        assert end_of(process, within=10) == "draining\nended\n"


def test_a_running_call_ends_before_the_server_does(tmp_path: Path) -> None:
    with (
        server(tmp_path) as (process, address),
        grpc.insecure_channel(address) as channel,
        ThreadPoolExecutor(1) as pool,
    ):
        unary: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{SERVICE}/Unary")
        answer = pool.submit(unary, b"1.0", timeout=20)
        assert process.stdout is not None
        assert process.stdout.readline() == "entered\n"
        process.terminate()
        assert answer.result(timeout=20) == b"done"
        assert end_of(process, within=10) == "draining\nended\n"


def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    with (
        server(tmp_path) as (process, address),
        grpc.insecure_channel(address) as channel,
        ThreadPoolExecutor(1) as pool,
    ):
        unary: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{SERVICE}/Unary")
        answer = pool.submit(unary, b"600", timeout=100)
        assert process.stdout is not None
        assert process.stdout.readline() == "entered\n"
        started = time.monotonic()
        process.terminate()
        assert process.stdout.readline() == "draining\n"
        process.terminate()
        with pytest.raises(grpc.RpcError):
            answer.result(timeout=20)
        assert end_of(process, within=10) == "ended\n"
        assert time.monotonic() - started < 20
