from __future__ import annotations

import asyncio
import itertools
import json
import time

import pytest
from eif.influence.v1 import influence_service_pb2, job_pb2

from services.client import connection
from services.client.channel import is_loopback
from services.client.connection import service_config
from services.client.errors import Unavailable
from services.client.influence import InfluenceClient
from services.client.reconnect import Reconnect
from tests.scripted_server import Context, ScriptedServer
from tests.tcp_proxy import TcpProxy

SERVICE = influence_service_pb2.DESCRIPTOR.services_by_name["InfluenceService"]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("localhost:1", True),
        ("[::1]:1", True),
        ("dns:///localhost:1", True),
        ("ipv4:127.0.0.1:1", True),
        ("unix:/run/eif.sock", True),
        ("10.0.0.1:1", False),
        ("example.org:1", False),
        ("dns:///example.org:1", False),
    ],
)
def test_loopback(target: str, expected: bool) -> None:
    assert is_loopback(target) is expected


def test_a_proxy_of_the_environment_is_not_asked_for_the_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    async def info(_request: object, _context: Context) -> influence_service_pb2.ServerInfo:
        return influence_service_pb2.ServerInfo(version="1")

    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with ScriptedServer(SERVICE, {"GetServerInfo": info}) as server, InfluenceClient(server.target) as client:
        assert client.server_info().version == "1"


def test_only_named_methods_are_sent_again() -> None:
    config = json.loads(service_config("a.b.S", ["Get", "List"]))
    (method,) = config["methodConfig"]
    assert method["name"] == [{"service": "a.b.S", "method": "Get"}, {"service": "a.b.S", "method": "List"}]
    assert method["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]


def test_pauses_grow_up_to_their_limit_with_jitter() -> None:
    delays = list(itertools.islice(Reconnect(first_delay=0.5, max_delay=3.0).delays(), 6))
    for delay, full in zip(delays, [0.5, 1.0, 2.0, 3.0, 3.0, 3.0], strict=True):
        assert full / 2 <= delay <= full


@pytest.mark.parametrize(
    "wrong",
    [{"first_delay": 0.0}, {"first_delay": 2.0, "max_delay": 1.0}, {"patience": -1.0}, {"attempt_timeout": 0.0}],
)
def test_patience_that_makes_no_sense(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        Reconnect(**wrong)


def test_a_server_that_is_lost_without_a_word_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def watch(_request: object, context: Context) -> None:
        await context.write(influence_service_pb2.InfluenceJobEvent(influence_job=job_pb2.InfluenceJob(name="j")))
        await asyncio.Event().wait()

    monkeypatch.setattr(connection, "PING_MS", 1000)
    monkeypatch.setattr(connection, "PONG_MS", 1000)
    with (
        ScriptedServer(SERVICE, {"WatchInfluenceJob": watch}) as server,
        TcpProxy(server.port) as proxy,
        InfluenceClient(proxy.target, reconnect=Reconnect(patience=0.0, attempt_timeout=60.0)) as client,
        client.watch("j") as events,
    ):
        assert next(events).name == "j"
        proxy.freeze()
        started = time.monotonic()
        with pytest.raises(Unavailable):
            next(events)
        assert time.monotonic() - started < 30, "the deadline of the call ended it, not the pings"
