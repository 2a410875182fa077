from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from eif.embedding.v1 import embedding_service_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from services.common.addresses import check_address
from services.common.connections import Connections
from services.common.errors import ServiceError
from services.common.health import HealthServicer
from services.common.interceptors import Interceptors
from services.common.protection import Protection
from services.common.ready import announce
from services.common.server import start_server
from tests.echo import SERVICE, call, echo_server, open_stream, register_echo

Status = health_pb2.HealthCheckResponse
HealthStub = Any  # the published stubs leave out List


async def echo(request: bytes, _context: object) -> bytes:
    return request


async def test_port_0_takes_a_free_port_and_tells_it() -> None:
    async with echo_server(echo) as (one, channel), echo_server(echo) as (two, _):
        assert one.address.startswith("127.0.0.1:")
        assert not one.address.endswith(":0")
        assert one.address != two.address
        assert await call(channel, "Unary", b"hello") == [b"hello"]


async def test_health_check_and_list_by_service() -> None:
    async with echo_server(echo) as (running, channel):
        stub: HealthStub = health_pb2_grpc.HealthStub(channel)
        for name in ("", SERVICE):
            assert (await stub.Check(health_pb2.HealthCheckRequest(service=name))).status == Status.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Check(health_pb2.HealthCheckRequest(service="nobody"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND

        await running.health.set(SERVICE, Status.NOT_SERVING)
        listed = await stub.List(health_pb2.HealthListRequest())  # type: ignore[attr-defined]  # not in the published stubs
    assert {name: status.status for name, status in listed.statuses.items()} == {
        "": Status.SERVING,
        SERVICE: Status.NOT_SERVING,
    }


async def test_health_watch_tells_changes_and_ends_with_the_server() -> None:
    async with echo_server(echo) as (running, channel):
        stub: HealthStub = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        other = stub.Watch(health_pb2.HealthCheckRequest(service="nobody"))
        seen = [(await watch.read()).status, (await other.read()).status]
        await running.health.set(SERVICE, Status.NOT_SERVING)
        seen.append((await watch.read()).status)
        await running.health.set(SERVICE, Status.SERVING)
        seen.append((await watch.read()).status)

        await asyncio.wait_for(running.drain(60), 10)  # a watch must not hold the drain

        seen.append((await watch.read()).status)
        assert await watch.read() is grpc.aio.EOF
        assert await other.read() is grpc.aio.EOF
    assert seen == [
        Status.SERVING,
        Status.SERVICE_UNKNOWN,
        Status.NOT_SERVING,
        Status.SERVING,
        Status.NOT_SERVING,
    ]


async def test_a_health_watch_told_of_the_end_while_it_writes_is_told_the_last_status() -> None:
    written = []

    class SlowContext:
        async def write(self, message: Any) -> None:
            written.append(message.status)
            await health.enter_graceful_shutdown()

    health = HealthServicer()
    await health.set(SERVICE, Status.SERVING)
    context: Any = SlowContext()
    await asyncio.wait_for(health.Watch(health_pb2.HealthCheckRequest(service=SERVICE), context), 10)
    assert written == [Status.SERVING, Status.NOT_SERVING]


async def test_after_the_drain_began_nothing_serves_again() -> None:
    async with echo_server(echo) as (running, _):
        await running.health.enter_graceful_shutdown()
        await running.health.set(SERVICE, Status.SERVING)
        assert running.health.statuses() == {"": Status.NOT_SERVING, SERVICE: Status.NOT_SERVING}


async def test_reflection_describes_the_services() -> None:
    name = embedding_service_pb2.DESCRIPTOR.services_by_name["EmbeddingService"].full_name
    running = await start_server(listen="127.0.0.1:0", services={name: lambda _server: None})
    try:
        services, methods = await asyncio.to_thread(_reflected, running.address, name)
    finally:
        await running.drain(None)
    assert set(services) == {name, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
    assert "SearchNeighbors" in methods


def _reflected(address: str, name: str) -> tuple[list[str], list[str]]:
    with grpc.insecure_channel(address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        service = DescriptorPool(database).FindServiceByName(name)
        return list(database.get_services()), [method.name for method in service.methods]


async def test_a_second_server_on_the_port_is_refused_with_the_address() -> None:
    async with echo_server(echo) as (running, channel):
        with pytest.raises(ServiceError, match="port is taken by another process") as caught:
            await start_server(listen=running.address, services={})
        assert running.address in caught.value.message
        assert await call(channel, "Unary") == [b"request"]


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "10.0.0.1:50051", "example.org:50051", ":50051"])
def test_an_address_that_others_can_reach_needs_insecure(listen: str) -> None:
    with pytest.raises(ServiceError, match="plain text") as caught:
        check_address(listen, insecure=False)
    assert listen in caught.value.message
    check_address(listen, insecure=True)


@pytest.mark.parametrize("listen", ["127.0.0.1:50051", "127.8.8.8:0", "localhost:1", "[::1]:65535"])
def test_a_loopback_address_is_fine(listen: str) -> None:
    check_address(listen, insecure=False)


@pytest.mark.parametrize("listen", ["", "127.0.0.1", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:65536", "127.0.0.1:-1"])
def test_an_address_without_a_port_is_refused(listen: str) -> None:
    with pytest.raises(ServiceError, match="must be host:port"):
        check_address(listen, insecure=True)


async def test_an_address_that_is_not_of_this_machine_is_told() -> None:
    with pytest.raises(ServiceError, match="no such address"):
        await start_server(listen="192.0.2.77:50051", services={}, insecure=True)


async def test_a_message_above_the_limit_is_refused_and_the_next_one_served() -> None:
    async with echo_server(echo, max_receive_bytes=1000) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(channel, "Unary", b"x" * 1001)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await call(channel, "Unary", b"x" * 900) == [b"x" * 900]


class Trace(grpc.aio.ServerInterceptor):
    """Writes down that it ran."""

    def __init__(self, name: str, seen: list[str]) -> None:
        self._name, self._seen = name, seen

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        self._seen.append(self._name)
        return await continuation(details)


async def test_an_old_connection_is_left_without_ending_its_calls() -> None:
    go, peers = asyncio.Event(), []

    async def body(_request: bytes, context: Any) -> None:
        peers.append(context.peer())
        await context.write(b"first")
        await go.wait()
        await context.write(b"last")

    aging = Protection(connections=Connections(max_age_s=0.2))
    async with echo_server(body, protection=aging) as (_, channel):
        streams = [open_stream(channel)]
        assert await streams[0].read() == b"first"
        while len(set(peers)) < 2:  # until a new call goes over a new connection
            streams.append(open_stream(channel))
            assert await asyncio.wait_for(streams[-1].read(), 10) == b"first"
            await asyncio.sleep(0.05)
        go.set()
        assert [await stream.read() for stream in streams] == [b"last"] * len(streams)


async def test_interceptors_run_in_their_order() -> None:
    seen: list[str] = []
    interceptors = Interceptors(
        authorization=[Trace("authorization", seen)],
        admission=[Trace("admission 1", seen), Trace("admission 2", seen)],
        authentication=[Trace("authentication", seen)],
    )
    async with echo_server(echo, protection=Protection(interceptors=interceptors)) as (_, channel):
        await call(channel, "Unary")
    assert seen == ["admission 1", "admission 2", "authentication", "authorization"]


async def test_a_drain_lets_running_calls_end_and_refuses_new_ones() -> None:
    entered, go = asyncio.Event(), asyncio.Event()

    async def slow(_request: bytes, _context: object) -> bytes:
        entered.set()
        await go.wait()
        return b"done"

    async with echo_server(slow) as (running, channel):
        running_call = asyncio.create_task(call(channel, "Unary"))
        await asyncio.wait_for(entered.wait(), 10)
        drain = asyncio.create_task(running.drain(30))
        await asyncio.wait_for(running.stopping.wait(), 10)
        async with grpc.aio.insecure_channel(running.address) as late:
            # gRPC answers CANCELLED to what arrives in the very moment of the stop: callers are refused before.
            refused = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
            assert await asyncio.wait_for(_first_of(refused, late), 10) is grpc.StatusCode.UNAVAILABLE
        go.set()
        assert await running_call == [b"done"]
        await asyncio.wait_for(drain, 10)


async def _first_of(wanted: set[grpc.StatusCode], channel: grpc.aio.Channel) -> grpc.StatusCode:
    while True:
        with pytest.raises(grpc.aio.AioRpcError) as caught:  # what is still accepted never ends: its deadline does
            await call(channel, "Unary", timeout=0.1)
        if caught.value.code() in wanted:
            return caught.value.code()


async def test_the_grace_ends_what_does_not_end_itself() -> None:
    async def forever(_request: bytes, context: Any) -> None:
        await context.write(b"first")
        await asyncio.Event().wait()

    async with echo_server(forever) as (running, channel):
        stream = open_stream(channel)
        assert await stream.read() == b"first"
        await asyncio.wait_for(running.drain(0.1), 10)
        with pytest.raises(grpc.aio.AioRpcError):
            await stream.read()


async def test_streams_that_wait_end_when_the_server_stops() -> None:
    stopping = asyncio.Event()

    async def wait(_request: bytes, context: Any) -> None:
        await context.write(b"first")
        await stopping.wait()
        await context.write(b"last")

    running = await start_server(listen="127.0.0.1:0", services={SERVICE: register_echo(wait)}, stopping=stopping)
    async with grpc.aio.insecure_channel(running.address) as channel:
        stream = open_stream(channel)
        assert await stream.read() == b"first"
        await asyncio.wait_for(running.drain(60), 10)
        assert await stream.read() == b"last"
        assert await stream.read() is grpc.aio.EOF


def test_the_announcement_is_one_json_line_and_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    announce("127.0.0.1:5", tmp_path / "ready")
    printed = capsys.readouterr().out
    line = json.loads(printed)
    assert printed.count("\n") == 1
    assert (line["event"], line["address"]) == ("listening", "127.0.0.1:5")
    assert (tmp_path / "ready").read_text() == printed
    assert [path.name for path in tmp_path.iterdir()] == ["ready"]
