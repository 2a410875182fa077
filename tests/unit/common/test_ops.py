from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest

from services.common import ops
from services.common.errors import ServiceError
from services.common.http_request import MAX_LINES
from services.common.ops import MAX_CONNECTIONS, Check, OpsServer
from tests.ops import Page, fetch, scrape, started
from tests.waiting import eventually


class State:
    """What the checks of a test find."""

    def __init__(self) -> None:
        self.wrong: dict[str, str | None] = {"loop": None, "table": None}
        self.registry = CollectorRegistry()

    def check(self, name: str) -> Check:
        async def check() -> str | None:
            return self.wrong[name]

        return check

    async def metrics(self) -> bytes:
        return generate_latest(self.registry)


@asynccontextmanager
async def running(state: State) -> AsyncIterator[str]:
    server = OpsServer(
        probes={
            "/livez": {"loop": state.check("loop")},
            "/readyz": {"loop": state.check("loop"), "table": state.check("table")},
        },
        metrics=state.metrics,
    )
    try:
        yield await started(server)
    finally:
        await server.close()


async def get(address: str, path: str, *, method: str = "GET") -> Page:
    return await asyncio.to_thread(fetch, address, path, method=method)


async def raw(address: str, data: bytes) -> bytes:
    """All that the server answers to some bytes."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(data)
    try:
        return await asyncio.wait_for(reader.read(), 10)
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_a_probe_says_which_check_failed() -> None:
    state = State()
    async with running(state) as address:
        page = await get(address, "/readyz")
        assert (page.status, page.checks) == (200, {"loop": "ok", "table": "ok"})
        state.wrong["table"] = "the job table cannot be used (RESOURCE_PROBLEM)"
        page = await get(address, "/readyz?verbose=1")
        assert page.status == 503
        assert page.checks == {"loop": "ok", "table": "the job table cannot be used (RESOURCE_PROBLEM)"}
        assert (await get(address, "/livez")).status == 200
        assert page.headers["content-type"] == "application/json"
        assert page.headers["cache-control"] == "no-store"


async def test_metrics_are_text_for_prometheus() -> None:
    state = State()
    Counter("things", "Things.", registry=state.registry).inc(3)
    async with running(state) as address:
        page = await get(address, "/metrics")
        assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert (await asyncio.to_thread(scrape, address)).value("things_total") == 3
        head = await get(address, "/metrics", method="HEAD")
        assert (head.status, head.body) == (200, "")
        assert head.headers["content-length"] == page.headers["content-length"]


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /nowhere HTTP/1.1\r\n\r\n", 404),
        (b"GET / HTTP/1.1\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\n\r\n", 405),
        (b"GET /livez HTTP/2.0\r\n\r\n", 400),
        (b"GET  /livez HTTP/1.1\r\n\r\n", 400),
        (b"GET http://x/livez HTTP/1.1\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"\n", 400),
        (b"GET /livez HTTP/1.1\r\n" + b"a: b\r\n" * (MAX_LINES + 1), 431),
        (b"GET /livez HTTP/1.1\r\nx: " + b"y" * 100_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n", 431),
    ],
)
async def test_what_is_no_request_gets_an_error_and_the_next_one_an_answer(request_bytes: bytes, status: int) -> None:
    async with running(State()) as address:
        answer = await raw(address, request_bytes)
        if answer:  # a reset can overtake the answer to a request that was not read to its end
            assert answer.startswith(f"HTTP/1.1 {status} ".encode())
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["status"] == "failed"
        assert (await get(address, "/livez")).status == 200


async def test_a_check_that_breaks_is_an_internal_error_without_its_text() -> None:
    state = State()
    state.wrong.clear()
    async with running(state) as address:
        page = await get(address, "/livez")
        assert page.status == 500
        assert "loop" not in page.body
        assert "internal error" in page.body


async def test_who_goes_away_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    async with running(State()) as address:
        for data in (b"", b"GET /livez", b"GET /livez HTTP/1.1\r\nx: y"):
            host, _, port = address.rpartition(":")
            with socket.create_connection((host, int(port))) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
                client.sendall(data)
            with socket.create_connection((host, int(port))) as client:
                client.sendall(data)
        assert (await get(address, "/livez")).status == 200
    assert not caplog.records


async def test_slow_clients_neither_stay_nor_keep_others_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "CONNECTION_S", 2.0)
    async with running(State()) as address:
        host, _, port = address.rpartition(":")
        slow = [await asyncio.open_connection(host, int(port)) for _ in range(5)]
        for _, writer in slow:
            writer.write(b"GET /livez HTTP/1.1\r\nx:")
        assert (await get(address, "/livez")).status == 200
        for reader, writer in slow:
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                assert await asyncio.wait_for(reader.readexactly(1), 10)
            writer.close()


async def test_a_flood_of_connections_pushes_out_its_own_oldest() -> None:
    async with running(State()) as address:
        host, _, port = address.rpartition(":")
        flood = [await asyncio.open_connection(host, int(port)) for _ in range(MAX_CONNECTIONS + 8)]
        assert (await get(address, "/livez")).status == 200
        await eventually(lambda: sum(reader.at_eof() or reader.exception() is not None for reader, _ in flood) >= 8)
        for _, writer in flood:
            writer.close()


async def test_who_does_not_read_the_answer_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "CONNECTION_S", 2.0)

    async def endless() -> bytes:
        return b"x" * (64 << 20)  # more than the kernel holds for a connection

    server = OpsServer(probes={"/livez": {}}, metrics=endless)
    address = await started(server)
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port))) as deaf:
        deaf.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        await eventually(lambda: len(server._connections) == 1)
        assert (await get(address, "/livez")).status == 200
        await eventually(lambda: not server._connections)
    await server.close()


@pytest.mark.parametrize("listen", ["", "9090", ":9090", "127.0.0.1:", "127.0.0.1:99999", "192.0.2.77:9090"])
async def test_an_address_that_cannot_be_used_is_told(listen: str) -> None:
    server = OpsServer(probes={}, metrics=State().metrics)
    with pytest.raises(ServiceError, match=r"ops_listen|192\.0\.2\.77"):
        await server.start(listen)
    await server.close()


async def test_a_port_that_is_taken_is_told() -> None:
    async with running(State()) as address:
        with pytest.raises(ServiceError, match="cannot listen on"):
            await OpsServer(probes={}, metrics=State().metrics).start(address)


async def test_ipv6() -> None:
    server = OpsServer(probes={"/livez": {}}, metrics=State().metrics)
    try:
        address = await server.start("[::1]:0")
    except ServiceError:
        pytest.skip("this machine has no IPv6")
    assert (await get(address, "/livez")).status == 200
    await server.close()
