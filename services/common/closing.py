"""A server that is about to stop takes no more calls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import grpc

from services.common.errors import ServiceError
from services.common.handlers import domain_of, is_open, refusing

if TYPE_CHECKING:
    from services.common.handlers import Handler


class Closing(grpc.aio.ServerInterceptor):
    """Refuses calls with SERVER_STOPPING from the moment it is told to; those that run go on.

    gRPC answers calls that are still in its queue when a server stops with CANCELLED, which clients rightly do not try
    again. A caller that is refused before sends nothing into that moment.
    """

    def __init__(self) -> None:
        self._closed = False

    def close(self) -> None:
        """Refuse calls from now on, but those of health and reflection."""
        self._closed = True

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        handler, method = await continuation(handler_call_details), handler_call_details.method
        if handler is None or not self._closed or is_open(method):
            return handler
        error = ServiceError("SERVER_STOPPING", "this server stops; call again, and another one or the next answers")
        return refusing(handler, error, method=method, domain=domain_of(method))
