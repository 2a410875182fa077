from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry

from services.common.call_metrics import CallMetrics, methods_of
from services.common.errors import ServiceError
from services.common.probe import is_serving
from services.common.rpc_errors import translate_errors
from tests.echo import DOMAIN, SERVICE, call, echo_server, open_stream, read_all

TYPES = {"Unary": "unary", "Stream": "server_stream", "Collect": "client_stream", "Chat": "bidi_stream"}


class Measured:
    """A server whose calls are counted."""

    def __init__(self, channel: grpc.aio.Channel, address: str, registry: CollectorRegistry) -> None:
        self.channel, self.address, self._registry = channel, address, registry

    def value(self, name: str, method: str, **labels: str) -> float | None:
        kind, service = (TYPES[method], SERVICE) if method in TYPES else ("unary", "unknown")
        known = {"grpc_type": kind, "grpc_service": service, "grpc_method": method}
        return self._registry.get_sample_value(name, known | labels)

    def handled(self, method: str, code: str) -> float | None:
        return self.value("grpc_server_handled_total", method, grpc_code=code)

    def methods(self) -> set[str]:
        """All values of the label `grpc_method`."""
        samples = [sample for family in self._registry.collect() for sample in family.samples]
        return {sample.labels["grpc_method"] for sample in samples if "grpc_method" in sample.labels}

    def failures(self, method: str, reason: str) -> float | None:
        return self._registry.get_sample_value("eif_call_failures_total", {"grpc_method": method, "reason": reason})


@asynccontextmanager
async def measured(body: Any) -> AsyncIterator[Measured]:
    registry = CollectorRegistry()
    observer = CallMetrics(registry, [SERVICE, "grpc.health.v1.Health", "no.such.Service"])
    async with echo_server(body, observers=[observer]) as (running, channel):
        yield Measured(channel, running.address, registry)


async def three(request: Any, context: Any) -> None:
    await read_all(request)
    for _ in range(3):
        await context.write(b"answer")


async def generate_three(request: Any, _context: Any) -> Any:
    await read_all(request)
    for _ in range(3):
        yield b"answer"


async def answer(request: Any, _context: Any) -> bytes:
    return b"".join(await read_all(request))


@pytest.mark.parametrize(
    ("method", "body", "received", "sent"),
    [
        ("Unary", answer, 1, 1),
        ("Collect", answer, 1, 1),
        ("Stream", three, 1, 3),
        ("Stream", generate_three, 1, 3),
        ("Chat", three, 1, 3),
        ("Chat", generate_three, 1, 3),
    ],
)
async def test_a_call_is_counted_with_its_messages(method: str, body: Any, received: int, sent: int) -> None:
    async with measured(body) as server:
        await call(server.channel, method)
        await call(server.channel, method)
        assert server.value("grpc_server_started_total", method) == 2
        assert server.handled(method, "OK") == 2
        assert server.value("grpc_server_msg_received_total", method) == 2 * received
        assert server.value("grpc_server_msg_sent_total", method) == 2 * sent
        assert server.value("grpc_server_handling_seconds_count", method) == 2
        assert server.value("grpc_server_handling_seconds_bucket", method, le="+Inf") == 2


async def test_messages_that_a_handler_reads_itself_are_counted() -> None:
    async def body(_requests: Any, context: Any) -> None:
        while (message := await context.read()) is not grpc.aio.EOF:
            await context.write(message)

    async with measured(body) as server:
        chat: Any = server.channel.stream_stream(f"/{SERVICE}/Chat")
        assert [one async for one in chat(iter([b"1", b"2"]))] == [b"1", b"2"]
        assert server.value("grpc_server_msg_received_total", "Chat") == 2
        assert server.value("grpc_server_msg_sent_total", "Chat") == 2


async def test_errors_are_counted_by_code_and_reason() -> None:
    async def body(_request: bytes, context: Any) -> None:
        async with translate_errors(context, "Unary", DOMAIN):
            raise ServiceError("JOB_NOT_FOUND", "no such job")

    async with measured(body) as server:
        with pytest.raises(grpc.aio.AioRpcError):
            await call(server.channel, "Unary")
        assert server.handled("Unary", "NotFound") == 1
        assert server.handled("Unary", "OK") == 0
        assert server.value("grpc_server_msg_sent_total", "Unary") == 0
        assert server.failures("Unary", "JOB_NOT_FOUND") == 1


async def test_a_cancelled_stream_is_counted_as_canceled() -> None:
    left = asyncio.Event()

    async def body(_request: bytes, context: Any) -> None:
        try:
            await context.write(b"first")
            await asyncio.Event().wait()
        finally:
            left.set()

    async with measured(body) as server:
        stream = open_stream(server.channel)
        assert await stream.read() == b"first"
        stream.cancel()
        await asyncio.wait_for(left.wait(), 10)
        assert server.handled("Stream", "Canceled") == 1
        assert server.value("grpc_server_msg_sent_total", "Stream") == 1


async def test_methods_that_callers_make_up_are_one_label() -> None:
    async with measured(answer) as server:
        for path in ("/test.Echo/Made", "/test.Echo/Up", "/no.such.Service/Unary", "/x/y"):
            method: Any = server.channel.unary_unary(path)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await method(b"")
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert server.value("grpc_server_started_total", "unknown") == 4
        assert server.handled("unknown", "Unimplemented") == 4
        assert server.methods() == {*TYPES, "Check", "List", "Watch", "unknown"}


async def test_health_checks_are_counted_and_series_begin_at_0() -> None:
    async with measured(answer) as server:
        assert {server.handled("Unary", code) for code in ("OK", "Internal", "Unavailable", "Canceled")} == {0}
        assert await asyncio.to_thread(is_serving, server.address)
        labels = {"grpc_type": "unary", "grpc_service": "grpc.health.v1.Health", "grpc_method": "Check"}
        assert server._registry.get_sample_value("grpc_server_started_total", labels) == 1


async def test_two_servers_in_one_process_do_not_mix() -> None:
    async with measured(answer) as one, measured(answer) as two:
        await call(one.channel, "Unary")
        assert one.value("grpc_server_started_total", "Unary") == 1
        assert two.value("grpc_server_started_total", "Unary") == 0


def test_methods_come_from_descriptors() -> None:
    assert methods_of([SERVICE])[f"/{SERVICE}/Chat"] == ("bidi_stream", SERVICE, "Chat")
    assert methods_of(["no.such.Service"]) == {}
