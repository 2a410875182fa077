"""Connections that mean no good, or are only many: real sockets against a real server."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.common.connections import Connections, raise_file_limit
from services.common.protection import Protection
from services.common.server import RunningServer
from services.common.tls import ServerTls, TlsFiles
from services.influence.stream import MAX_CHUNK_BYTES
from tests.echo import call, echo_server, open_stream
from tests.pki import Authority, credentials_of
from tests.tcp_proxy import TcpProxy

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"


async def echo(request: bytes, _context: Any) -> bytes:
    return request


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@asynccontextmanager
async def tls_server(authority: Authority, body: Any = echo, **connections: Any) -> AsyncIterator[RunningServer]:
    pair = authority.server()
    protection = Protection(
        credentials=ServerTls(TlsFiles(certificate=pair.certificate, key=pair.key)).credentials(),
        connections=Connections(**connections),
    )
    async with echo_server(body, protection=protection) as (running, _):
        yield running


def connected(running: RunningServer) -> socket.socket:
    host, _, port = running.address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=20)


def closed_by_server(connection: socket.socket) -> bool:
    """Whether the server ends the connection, within the time-out of the socket."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
    return True


async def served(running: RunningServer, authority: Authority) -> bool:
    """Whether a new client is served."""
    async with grpc.aio.secure_channel(running.address, credentials_of(authority.certificate)) as channel:
        return await call(channel, "Unary", b"hello", timeout=20) == [b"hello"]


def tls_hello() -> bytes:
    """The first message of a TLS handshake."""
    context = ssl.create_default_context()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("sent", ["nothing", "half a hello", "a hello"])
async def test_a_handshake_that_does_not_end_is_ended(authority: Authority, sent: str) -> None:
    data = {"nothing": b"", "half a hello": tls_hello()[:100], "a hello": tls_hello()}[sent]
    async with tls_server(authority, handshake_s=1.0) as running:
        with connected(running) as connection:
            connection.sendall(data)
            assert await asyncio.to_thread(closed_by_server, connection)
        assert await served(running, authority)


async def test_a_client_that_speaks_no_http2_after_its_handshake_is_left(authority: Authority) -> None:
    context = ssl.create_default_context(cafile=authority.certificate)
    context.set_alpn_protocols(["h2"])
    async with tls_server(authority, handshake_s=1.0) as running:

        def idle() -> bool:
            with connected(running) as plain, context.wrap_socket(plain, server_hostname="localhost") as connection:
                return closed_by_server(connection)

        assert await asyncio.to_thread(idle)
        assert await served(running, authority)


async def test_many_slow_handshakes_do_not_keep_others_out(authority: Authority) -> None:
    async with tls_server(authority, handshake_s=2.0) as running:
        with ExitStack() as stack:
            loris = [stack.enter_context(connected(running)) for _ in range(300)]
            for connection in loris:
                connection.send(b"\x16")
            assert await served(running, authority)
            assert all(await asyncio.gather(*(asyncio.to_thread(closed_by_server, each) for each in loris)))


async def test_a_thousand_idle_connections_do_not_keep_others_out() -> None:
    assert raise_file_limit() > 3000, "this test needs as many open files"
    async with echo_server(echo) as (running, channel):
        with ExitStack() as stack:
            idle = [stack.enter_context(connected(running)) for _ in range(1000)]
            for connection in idle:
                connection.sendall(PREFACE)
            assert await call(channel, "Unary", b"hello", timeout=20) == [b"hello"]
            async with grpc.aio.insecure_channel(running.address) as late:
                assert await call(late, "Unary", b"hello", timeout=20) == [b"hello"]


async def test_connections_beyond_the_limit_are_closed_and_those_that_stand_are_served() -> None:
    protection = Protection(connections=Connections(max_open=20))
    async with echo_server(echo, protection=protection) as (running, channel):
        assert await call(channel, "Unary", b"hello") == [b"hello"]
        with ExitStack() as stack:
            more = [stack.enter_context(connected(running)) for _ in range(30)]
            for connection in more:
                connection.settimeout(1.0)
                connection.sendall(PREFACE)
            ended = await asyncio.gather(*(asyncio.to_thread(closed_by_server, each) for each in more))
            assert ended.count(True) >= 10
            assert await call(channel, "Unary", b"hello") == [b"hello"]


async def test_an_old_connection_is_left_within_its_grace(authority: Authority) -> None:
    async def forever(_request: bytes, context: Any) -> None:
        await context.write(b"first")
        await asyncio.Event().wait()

    async with (
        tls_server(authority, forever, max_age_s=0.3, grace_s=0.3) as running,
        grpc.aio.secure_channel(running.address, credentials_of(authority.certificate)) as channel,
    ):
        stream = open_stream(channel)
        assert await stream.read() == b"first"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(stream.read(), 20)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert await open_stream(channel).read() == b"first"


async def test_a_caller_that_is_lost_without_a_word_is_given_up() -> None:
    left = asyncio.Event()

    async def forever(_request: bytes, context: Any) -> None:
        try:
            await context.write(b"first")
            await asyncio.Event().wait()
        finally:
            left.set()

    protection = Protection(connections=Connections(ping_s=1.0, pong_s=1.0))
    async with echo_server(forever, protection=protection) as (running, there):
        with TcpProxy(int(running.address.rpartition(":")[2])) as proxy:
            async with grpc.aio.insecure_channel(proxy.target) as channel:
                stream = open_stream(channel)
                assert await stream.read() == b"first"
                other = open_stream(there)
                assert await other.read() == b"first"
                proxy.freeze()
                await asyncio.wait_for(left.wait(), 20)
                assert not other.done()


@pytest.mark.parametrize("chunk_bytes", [64 << 10, MAX_CHUNK_BYTES, 2 << 20], ids=["64 KiB", "ranking", "2 MiB"])
@pytest.mark.parametrize("stalls", ["program", "machine"])
@pytest.mark.parametrize("encrypted", [False, True])
async def test_a_server_holds_little_for_a_reader_that_stalls(
    authority: Authority, chunk_bytes: int, stalls: str, *, encrypted: bool
) -> None:
    """All that was handed over and has not left the server, the buffers of its kernel included."""
    chunk, written = b"x" * chunk_bytes, 0
    moved = asyncio.Event()

    async def pour(_request: bytes, context: Any) -> None:
        nonlocal written
        while True:
            written += len(chunk)
            moved.set()
            await context.write(chunk)

    async with tls_server(authority, pour) if encrypted else _plain(pour) as running:
        with TcpProxy(int(running.address.rpartition(":")[2])) as proxy:
            async with _channel(proxy.target, authority if encrypted else None) as channel:
                stream = open_stream(channel)
                assert await stream.read() == chunk
                if stalls == "machine":
                    proxy.freeze()
                while True:
                    moved.clear()
                    try:
                        await asyncio.wait_for(moved.wait(), 2.0)
                    except TimeoutError:
                        break
                assert written - proxy.from_server <= 8 << 20
                stream.cancel()


def _channel(target: str, authority: Authority | None) -> grpc.aio.Channel:
    if authority is None:
        return grpc.aio.insecure_channel(target)
    return grpc.aio.secure_channel(target, credentials_of(authority.certificate))


@asynccontextmanager
async def _plain(body: Any) -> AsyncIterator[RunningServer]:
    async with echo_server(body) as (running, _):
        yield running
