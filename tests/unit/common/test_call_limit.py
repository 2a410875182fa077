from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from services.common.call_limit import CallLimit
from services.common.interceptors import Interceptors
from services.common.protection import Protection
from tests.echo import DOMAIN, call, echo_server, open_stream


def limited(max_calls: int, max_streams: int) -> Protection:
    limit = CallLimit(max_calls=max_calls, max_streams=max_streams, domain=DOMAIN)
    return Protection(interceptors=Interceptors(admission=[limit]))


def refusal(error: grpc.aio.AioRpcError) -> tuple[str, str, int]:
    """Reason, what is limited, and the seconds to wait."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # has what is needed of a call
    assert status is not None
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(retry)
    return info.reason, info.metadata["limit"], retry.retry_delay.seconds


async def test_calls_beyond_the_limit_are_refused_and_later_ones_served() -> None:
    entered, go = asyncio.Semaphore(0), asyncio.Event()

    async def slow(_request: bytes, _context: Any) -> bytes:
        entered.release()
        await go.wait()
        return b"done"

    async with echo_server(slow, protection=limited(2, 2)) as (_, channel):
        running = [asyncio.create_task(call(channel, "Unary", timeout=20)) for _ in range(2)]
        for _ in running:
            await asyncio.wait_for(entered.acquire(), 20)
        for _ in range(3):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(channel, "Unary", timeout=20)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert refusal(caught.value) == ("TOO_MANY_CALLS", "2", 1)
        go.set()
        assert await asyncio.gather(*running) == [[b"done"]] * 2
        assert await call(channel, "Unary", timeout=20) == [b"done"]


@pytest.mark.parametrize("end", ["error", "cancel"])
async def test_a_place_is_free_however_a_call_ends(end: str) -> None:
    left = asyncio.Event()

    async def body(_request: bytes, context: Any) -> None:
        try:
            await context.write(b"first")
            if end == "error":
                raise RuntimeError("a fault")
            await asyncio.Event().wait()
        finally:
            left.set()

    async with echo_server(body, protection=limited(1, 1)) as (_, channel):
        for _ in range(5):
            left.clear()
            stream = open_stream(channel)
            assert await stream.read() == b"first"
            stream.cancel()
            await asyncio.wait_for(left.wait(), 20)


async def test_watches_of_health_are_bounded_but_checks_are_not_and_take_no_places_of_calls() -> None:
    async def answer(_request: bytes, _context: Any) -> bytes:
        return b"answer"

    async with echo_server(answer, protection=limited(1, 2)) as (_, channel):
        stub: Any = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest()
        watches = [stub.Watch(request) for _ in range(2)]
        for watch in watches:
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Watch(request).read()
        assert refusal(caught.value)[0] == "TOO_MANY_CALLS"
        checks = await asyncio.gather(*(stub.Check(request) for _ in range(50)))
        assert {check.status for check in checks} == {health_pb2.HealthCheckResponse.SERVING}
        assert await call(channel, "Unary") == [b"answer"]
        for watch in watches:
            watch.cancel()
