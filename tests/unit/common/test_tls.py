from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from prometheus_client.parser import text_string_to_metric_families

from services.common.errors import ServiceError
from services.common.metrics import exposition
from services.common.observability import Observability
from services.common.protection import Protection
from services.common.server import RunningServer, start_server
from services.common.tls import ServerTls, TlsFiles
from tests.echo import SERVICE, call, open_stream, register_echo
from tests.pki import Authority, Pair, credentials_of, write_key


async def who(_request: bytes, context: Any) -> bytes:
    return repr({key: list(values) for key, values in context.auth_context().items()}).encode()


@asynccontextmanager
async def tls_server(files: TlsFiles, body: Any = who) -> AsyncIterator[RunningServer]:
    running = await start_server(
        listen="127.0.0.1:0",
        services={SERVICE: register_echo(body)},
        protection=Protection(credentials=ServerTls(files).credentials()),
    )
    try:
        yield running
    finally:
        await running.drain(None)


@asynccontextmanager
async def channel_to(running: RunningServer, ca: Path, client: Pair | None = None) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.secure_channel(running.address, credentials_of(ca, client)) as channel:
        yield channel


async def answer(running: RunningServer, ca: Path, client: Pair | None = None) -> str:
    """What a new connection is told."""
    async with channel_to(running, ca, client) as channel:
        return (await call(channel, "Unary", timeout=10))[0].decode()


def replace(pair: Pair, new: Pair) -> None:
    """The files of one certificate become those of another, one after the other."""
    new.key.replace(pair.key)
    new.certificate.replace(pair.certificate)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


@pytest.fixture
def server(authority: Authority) -> Pair:
    return authority.server()


def files(server: Pair, client_ca: Path | None = None) -> TlsFiles:
    return TlsFiles(certificate=server.certificate, key=server.key, client_ca=client_ca)


async def test_a_client_that_trusts_the_authority_is_served_and_others_are_not(
    authority: Authority, server: Pair, tmp_path: Path
) -> None:
    async with tls_server(files(server)) as running:
        assert "ssl" in await answer(running, authority.certificate)
        with pytest.raises(grpc.aio.AioRpcError, match="CERTIFICATE_VERIFY_FAILED"):
            await answer(running, Authority(tmp_path / "other", "other").certificate)
        async with grpc.aio.insecure_channel(running.address) as plain:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(plain, "Unary", timeout=10)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_clients_without_a_certificate_of_the_right_authority_are_refused(
    authority: Authority, server: Pair, tmp_path: Path
) -> None:
    clients = Authority(tmp_path / "clients", "clients")
    async with tls_server(files(server, clients.certificate)) as running:
        trainer = clients.client("trainer", spiffe="spiffe://example.org/ns/ml/sa/trainer")
        told = await answer(running, authority.certificate, trainer)
        assert "spiffe://example.org/ns/ml/sa/trainer" in told
        assert "CN=trainer" in told
        for stranger in (None, authority.client("stranger")):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await answer(running, authority.certificate, stranger)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_new_connections_get_the_new_certificate_and_old_ones_go_on(
    authority: Authority, server: Pair, tmp_path: Path
) -> None:
    go = asyncio.Event()

    async def body(request: bytes, context: Any) -> bytes | None:
        if request == b"request":
            return b"answer"
        await context.write(b"first")
        await go.wait()
        await context.write(b"last")
        return None

    async with tls_server(files(server), body) as running, channel_to(running, authority.certificate) as old:
        stream = open_stream(old, b"stream")
        assert await stream.read() == b"first"
        after = Authority(tmp_path / "after", "after")
        replace(server, after.server())
        assert await answer(running, after.certificate) == "answer"
        with pytest.raises(grpc.aio.AioRpcError, match="CERTIFICATE_VERIFY_FAILED"):
            await answer(running, authority.certificate)
        assert await call(old, "Unary", timeout=10) == [b"answer"]
        go.set()
        assert await stream.read() == b"last"


async def test_calls_do_not_fail_while_certificates_change(authority: Authority, server: Pair) -> None:
    calls = 0

    async def load() -> None:
        nonlocal calls
        while not done.is_set():
            assert "ssl" in await answer(running, authority.certificate)
            calls += 1

    done = asyncio.Event()
    async with tls_server(files(server)) as running:
        load_tasks = [asyncio.create_task(load()) for _ in range(4)]
        for turn in range(20):
            replace(server, authority.server(f"server-{turn}"))
            seen = calls
            while calls < seen + 4:
                assert not any(task.done() for task in load_tasks)
                await asyncio.sleep(0.01)
        done.set()
        await asyncio.gather(*load_tasks)
    assert calls >= 80


async def test_a_mounted_secret_that_kubernetes_swaps_counts_for_the_next_connection(
    authority: Authority, tmp_path: Path
) -> None:
    """`tls.crt -> ..data/tls.crt`, and `..data` is one link that is moved."""
    mount, after = tmp_path / "mount", Authority(tmp_path / "after", "after")
    for version, pair in (("..one", authority.server("one")), ("..two", after.server("two"))):
        (mount / version).mkdir(parents=True)
        pair.certificate.rename(mount / version / "tls.crt")
        pair.key.rename(mount / version / "tls.key")
    (mount / "..data").symlink_to("..one")
    for name in ("tls.crt", "tls.key"):
        (mount / name).symlink_to(f"..data/{name}")
    async with tls_server(TlsFiles(certificate=mount / "tls.crt", key=mount / "tls.key")) as running:
        assert "ssl" in await answer(running, authority.certificate)
        (mount / "..new").symlink_to("..two")
        (mount / "..new").rename(mount / "..data")
        assert "ssl" in await answer(running, after.certificate)


async def test_a_new_authority_of_clients_counts_for_new_connections(
    authority: Authority, server: Pair, tmp_path: Path
) -> None:
    first, second = Authority(tmp_path / "first", "first"), Authority(tmp_path / "second", "second")
    one, two = first.client("one"), second.client("two")
    async with tls_server(files(server, first.certificate)) as running:
        assert "CN=one" in await answer(running, authority.certificate, one)
        second.certificate.replace(first.certificate)
        assert "CN=two" in await answer(running, authority.certificate, two)
        with pytest.raises(grpc.aio.AioRpcError):
            await answer(running, authority.certificate, one)


def test_the_end_of_the_certificate_in_use_is_measured(authority: Authority, server: Pair) -> None:
    def told() -> dict[str, float]:
        families = text_string_to_metric_families(exposition(seen.registry).decode())
        (family,) = (family for family in families if family.name == "eif_certificate_expiry_timestamp_seconds")
        return {sample.labels["certificate"]: sample.value for sample in family.samples}

    seen = Observability("test")
    assert told() == {}
    tls = ServerTls(files(server, authority.certificate))
    seen.show_certificates(tls.ends())
    soon, late = datetime(2031, 1, 1, tzinfo=UTC), datetime(2032, 1, 1, tzinfo=UTC)
    before = told()
    assert set(before) == {"server", "client_ca"}
    replace(server, authority.server("soon", until=soon))
    assert told() == before | {"server": soon.timestamp()}
    authority.server("late", until=late).certificate.replace(server.certificate)  # with the key of before: not in use
    assert told() == before | {"server": soon.timestamp()}


async def test_a_broken_pair_is_logged_and_the_one_before_goes_on(
    authority: Authority, server: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    async with tls_server(files(server)) as running:
        authority.server("other").key.replace(server.key)
        assert "ssl" in await answer(running, authority.certificate)
        (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert str(server.key) in record.getMessage()
        assert "stays as it was" in record.getMessage()
        assert "BEGIN" not in record.getMessage()


def test_what_cannot_be_used_is_told_at_the_start(authority: Authority, server: Pair, tmp_path: Path) -> None:
    locked = write_key(tmp_path / "locked.key", ec.generate_private_key(ec.SECP256R1()), passphrase=b"hush")
    empty = tmp_path / "empty.pem"
    empty.write_bytes(b"")
    other = authority.server("other")
    for certificate, key, client_ca in (
        (server.certificate, other.key, None),
        (server.certificate, locked, None),
        (server.certificate, tmp_path / "missing", None),
        (empty, server.key, None),
        (server.certificate, server.key, empty),
        (server.certificate, server.key, server.key),
    ):
        with pytest.raises(ServiceError) as caught:
            ServerTls(TlsFiles(certificate=certificate, key=key, client_ca=client_ca))
        assert str(certificate) in caught.value.message
        assert "BEGIN" not in caught.value.message
