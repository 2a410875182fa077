from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.client.channel import open_channel
from services.client.credentials import Credentials, CredentialsError
from services.client.following_channel import FollowingChannel
from services.common.followed_files import FollowedFiles
from services.common.tls import ServerTls, TlsFiles
from tests.pki import Authority, Pair
from tests.waiting import wait_until

UNARY, STREAM = "/test.Who/Unary", "/test.Who/Stream"


def name_of(context: Any) -> bytes:
    """The common name of the caller's certificate."""
    (name,) = context.auth_context()["x509_common_name"]
    return bytes(name)


class Server:
    """Tells callers who they are; its streams do so twice, the second time when the test lets them."""

    def __init__(self, files: TlsFiles) -> None:
        self.go = threading.Event()
        self._server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Unary": grpc.unary_unary_rpc_method_handler(lambda _request, context: name_of(context)),
            "Stream": grpc.unary_stream_rpc_method_handler(self._twice),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Who", handlers),))
        self.target = f"localhost:{self._server.add_secure_port('localhost:0', ServerTls(files).credentials())}"
        self._server.start()

    def stop(self) -> None:
        self.go.set()
        self._server.stop(None).wait()

    def _twice(self, _request: bytes, context: Any) -> Iterator[bytes]:
        yield name_of(context)
        self.go.wait(20)
        yield name_of(context)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


@pytest.fixture
def server(authority: Authority) -> Iterator[Server]:
    pair = authority.server()
    server = Server(TlsFiles(certificate=pair.certificate, key=pair.key, client_ca=authority.certificate))
    yield server
    server.stop()


def unary(channel: grpc.Channel) -> bytes:
    call: Any = channel.unary_unary(UNARY)
    answer: bytes = call(b"", timeout=10)
    return answer


def stream(channel: grpc.Channel) -> Any:
    call: Any = channel.unary_stream(STREAM)
    return call(b"", timeout=20)


def replace(pair: Pair, new: Pair) -> None:
    new.key.replace(pair.key)
    new.certificate.replace(pair.certificate)


@contextmanager
def connected(server: Server, authority: Authority, pair: Pair) -> Iterator[grpc.Channel]:
    files = Credentials(ca_file=authority.certificate, certificate_file=pair.certificate, key_file=pair.key)
    with open_channel(server.target, credentials=files) as channel:
        yield channel


def test_calls_use_the_certificate_of_the_moment_and_those_that_run_go_on(server: Server, authority: Authority) -> None:
    pair = authority.client("one")
    with connected(server, authority, pair) as channel:
        assert unary(channel) == b"one"
        running = stream(channel)
        assert next(running) == b"one"
        replace(pair, authority.client("two"))
        assert unary(channel) == b"two"
        assert next(stream(channel)) == b"two"
        server.go.set()
        assert list(running) == [b"one"]


def test_a_client_follows_the_authority_of_its_server(tmp_path: Path, authority: Authority) -> None:
    after = Authority(tmp_path / "after", "after")
    pair, trusted = authority.server(), tmp_path / "trusted.pem"
    trusted.write_bytes(authority.certificate.read_bytes())
    server = Server(TlsFiles(certificate=pair.certificate, key=pair.key, client_ca=authority.certificate))
    mine = authority.client("one")
    try:
        files = Credentials(ca_file=trusted, certificate_file=mine.certificate, key_file=mine.key)
        with open_channel(server.target, credentials=files) as channel:
            assert unary(channel) == b"one"
            replace(pair, after.server())
            after.certificate.replace(trusted)
            assert unary(channel) == b"one"
    finally:
        server.stop()


def test_files_that_do_not_fit_together_are_told_once_and_those_of_before_go_on(
    server: Server, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    pair, new = authority.client("one"), authority.client("two")
    with connected(server, authority, pair) as channel:
        new.key.replace(pair.key)  # half of the change
        assert [unary(channel) for _ in range(3)] == [b"one"] * 3
        (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert str(pair.key) in record.getMessage()
        assert "PRIVATE" not in record.getMessage()
        new.certificate.replace(pair.certificate)
        assert unary(channel) == b"two"


def test_a_connection_of_before_is_closed_after_its_last_call(
    server: Server, authority: Authority, tmp_path: Path
) -> None:
    name, channels = tmp_path / "name", []
    pairs = {each: authority.client(each) for each in ("one", "two", "three")}

    def connect(who: str) -> grpc.Channel:
        credentials = grpc.ssl_channel_credentials(
            authority.certificate.read_bytes(), pairs[who].key.read_bytes(), pairs[who].certificate.read_bytes()
        )
        channels.append(grpc.secure_channel(server.target, credentials))
        return channels[-1]

    name.write_text("one")
    with FollowingChannel(FollowedFiles([name], lambda contents: contents[0].decode(), what="a name"), connect) as all_:
        running = stream(all_)
        assert next(running) == b"one"
        for who in ("two", "three"):
            written(name, who)
            assert unary(all_) == who.encode()
        assert [is_open(channel) for channel in channels] == [True, False, True]
        server.go.set()
        assert list(running) == [b"one"]

        def gone() -> bool:
            assert unary(all_) == b"three"
            return not is_open(channels[0])

        wait_until(gone)
    assert not any(map(is_open, channels))


@pytest.mark.parametrize("wrong", ["key", "authority"])
def test_what_does_not_fit_at_the_start_is_refused(authority: Authority, tmp_path: Path, wrong: str) -> None:
    one, two, broken = authority.client("one"), authority.client("two"), tmp_path / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    given: dict[str, Credentials] = {
        "key": Credentials(certificate_file=one.certificate, key_file=two.key),
        "authority": Credentials(ca_file=broken),
    }
    with pytest.raises(CredentialsError, match=r"two\.key is not the key of|broken\.pem has no certificates"):
        open_channel("localhost:1", credentials=given[wrong])


def written(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def is_open(channel: grpc.Channel) -> bool:
    """Whether a call can be begun; a channel that is closed raises ValueError."""
    method: Callable[..., Any] = channel.unary_unary(UNARY)
    try:
        method(b"", timeout=10)
    except ValueError:
        return False
    return True
