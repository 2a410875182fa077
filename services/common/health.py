"""grpc.health.v1 with List, and a Watch that does not outlive the server's drain."""

# ruff: noqa: N802  the names of the methods are gRPC's

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from grpc import StatusCode
from grpc_health.v1 import health, health_pb2

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from grpc.aio import ServicerContext

_Status = health_pb2.HealthCheckResponse


class HealthServicer(health.aio.HealthServicer):
    """Check, List, Watch. The base has no List, and its Watch would hold the drain until the grace is over."""

    def __init__(self) -> None:
        super().__init__()
        self._statuses: dict[str, int] = {}
        self._changed = asyncio.Condition()
        self._stopping = False

    async def set(self, service: str, status: int) -> None:
        """Set the status of a service; ignored once the drain has begun."""
        async with self._changed:
            if not self._stopping:
                self._statuses[service] = status
                self._changed.notify_all()

    async def enter_graceful_shutdown(self) -> None:
        """Every service is NOT_SERVING, for good; watches are told and end."""
        async with self._changed:
            self._stopping = True
            self._statuses.update(dict.fromkeys(self._statuses, _Status.NOT_SERVING))
            self._changed.notify_all()

    def statuses(self) -> dict[str, int]:
        """Status by service; the empty name is the server."""
        return dict(self._statuses)

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: ServicerContext[Any, Any]
    ) -> health_pb2.HealthCheckResponse:
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(StatusCode.NOT_FOUND, f"there is no service {request.service[:200]!r} here")
        return _Status(status=status)

    async def List(self, _request: Message, _context: ServicerContext[Any, Any]) -> Message:
        statuses = {name: _Status(status=status) for name, status in self._statuses.items()}
        reply: Message = health_pb2.HealthListResponse(statuses=statuses)  # type: ignore[attr-defined]  # not in the stubs
        return reply

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: ServicerContext[Any, Any]) -> None:
        sent: int | None = None
        last = False
        while not last:
            status, last = await self._next(request.service, sent)
            if status != sent:
                await context.write(_Status(status=status))
                sent = status

    async def _next(self, service: str, known: int | None) -> tuple[int, bool]:
        """The status of a service once it is another than `known` or the server stops, and whether it is the last."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._stopping or self._status(service) != known)
            return self._status(service), self._stopping

    def _status(self, service: str) -> int:
        return self._statuses.get(service, _Status.SERVICE_UNKNOWN)
