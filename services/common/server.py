"""The gRPC server that both services start: options, health, reflection, drain."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.common.addresses import check_address
from services.common.calls import CallInterceptor, CallObserver
from services.common.closing import Closing
from services.common.connections import Connections
from services.common.errors import ServiceError
from services.common.health import HealthServicer
from services.common.malformed import MalformedRequests
from services.common.protection import UNPROTECTED, Protection
from services.common.ready import announce
from services.common.telemetry import CallLog

DEFAULT_MAX_RECEIVE_BYTES = 4 << 20
DEFAULT_GRACE_SECONDS = 30.0
LAME_DUCK_SECONDS = 0.25
"""Between NOT_SERVING and the first call that is refused, and from then to the closed port."""

Register = Callable[[grpc.aio.Server], object]
"""Adds a servicer to a server: `partial(add_XServicer_to_server, servicer)`."""


@dataclass(frozen=True, kw_only=True)
class RunningServer:
    """A server that accepts calls.

    Attributes:
        address: `host:port` that it is bound to, with the real port.
        health: Sets the status of each service.
        stopping: Set when the drain begins. Streams that wait for events end when it is set.
        closing: Refuses new calls at last.
    """

    address: str
    server: grpc.aio.Server
    health: HealthServicer
    stopping: asyncio.Event
    closing: Closing

    async def drain(self, grace: float | None = DEFAULT_GRACE_SECONDS) -> None:
        """Health says NOT_SERVING at once; soon new calls are refused; running ones have `grace` seconds to end."""
        await self.health.enter_graceful_shutdown()
        self.stopping.set()
        await asyncio.sleep(LAME_DUCK_SECONDS)
        self.closing.close()
        await asyncio.sleep(LAME_DUCK_SECONDS)
        await self.server.stop(grace)


async def start_server(
    *,
    listen: str,
    services: Mapping[str, Register],
    insecure: bool = False,
    protection: Protection = UNPROTECTED,
    max_receive_bytes: int = DEFAULT_MAX_RECEIVE_BYTES,
    observers: Sequence[CallObserver] = (),
    stopping: asyncio.Event | None = None,
) -> RunningServer:
    """Bind, register and start.

    Args:
        listen: `host:port`; port 0 takes a free one.
        services: How to register each service, by its full name.
        insecure: Allow an address that other machines can reach, although traffic is plain text.
        protection: TLS, limits, who callers are and what they may do.
        max_receive_bytes: Of one message from a client.
        observers: Told of every call, also of those that are refused.
        stopping: Shared with servicers whose streams wait; a new one when not given.

    Raises:
        ServiceError: ARGUMENT_INVALID when the address cannot be used.
    """
    check_address(listen, insecure=insecure, encrypted=protection.credentials is not None)
    closing = Closing()
    server = grpc.aio.server(
        interceptors=[
            CallInterceptor([*observers, CallLog()]),
            closing,
            MalformedRequests(),
            *protection.interceptors.in_order(),
        ],
        options=_options(max_receive_bytes, protection.connections),
    )
    for register in services.values():
        register(server)
    health = HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    names = [*services, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name]
    if protection.reflection:
        reflection.enable_server_reflection([*names, reflection.SERVICE_NAME], server)
    address = _bind(server, listen, protection.credentials)
    await server.start()
    for name in ("", *services):
        await health.set(name, health_pb2.HealthCheckResponse.SERVING)
    return RunningServer(
        address=address, server=server, health=health, stopping=stopping or asyncio.Event(), closing=closing
    )


async def serve_until_signal(
    running: RunningServer,
    *,
    grace: float = DEFAULT_GRACE_SECONDS,
    ready_file: Path | None = None,
    on_drain: Callable[[], Awaitable[None]] | None = None,
    ops_address: str | None = None,
) -> None:
    """Announce the address, wait for SIGTERM or SIGINT, drain. A second signal ends running calls at once.

    Args:
        running: The server.
        grace: Seconds that running calls have to end.
        ready_file: Where the address is written too, once calls are accepted.
        on_drain: Awaited once new calls are refused, while running ones go on.
        ops_address: Of the port for probes and metrics, to be announced too.
    """
    signals: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, signals.put_nowait, number)
    try:
        announce(running.address, ready_file, ops_address=ops_address)
        await signals.get()
        await _drain(running, grace, on_drain, hurry=asyncio.create_task(signals.get()))
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def _drain(
    running: RunningServer, grace: float, on_drain: Callable[[], Awaitable[None]] | None, *, hurry: asyncio.Task[int]
) -> None:
    drain = asyncio.create_task(running.drain(grace))
    try:
        if on_drain is not None:
            await on_drain()
    finally:
        await asyncio.wait({drain, hurry}, return_when=asyncio.FIRST_COMPLETED)
        if not drain.done():
            await running.server.stop(None)
        hurry.cancel()
        await drain


def _bind(server: grpc.aio.Server, listen: str, credentials: grpc.ServerCredentials | None) -> str:
    try:
        port = server.add_secure_port(listen, credentials) if credentials else server.add_insecure_port(listen)
    except RuntimeError:
        port = 0
    if not port:
        raise ServiceError(
            "ARGUMENT_INVALID",
            f"cannot listen on {listen}: the port is taken by another process, or this machine has no such address",
            field="listen",
        )
    return f"{listen.rpartition(':')[0]}:{port}"


def _options(max_receive_bytes: int, connections: Connections) -> list[tuple[str, int]]:
    return [("grpc.max_receive_message_length", max_receive_bytes), *connections.as_options()]
