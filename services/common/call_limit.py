"""How many calls a server has in work at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc

from services.common.errors import ServiceError
from services.common.handlers import Context, guarded, is_open, refusing

if TYPE_CHECKING:
    from services.common.handlers import Handler


class CallLimit(grpc.aio.ServerInterceptor):
    """Refuses calls beyond a number with TOO_MANY_CALLS, before their request is read.

    Streams wait most of their time, so they are counted apart. Health checks are not counted: a server that is busy is
    not to be restarted for it.

    Args:
        max_calls: Calls with one answer.
        max_streams: Calls with a stream of answers.
        domain: Of ErrorInfo.
    """

    def __init__(self, *, max_calls: int, max_streams: int, domain: str) -> None:
        self._most = {False: max_calls, True: max_streams}
        self._running = {False: 0, True: 0}
        self._domain = domain

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:  # noqa: ANN401  handlers are generic for the type checker only
        handler: Handler | None = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or is_open(method):
            return handler
        streams = handler.response_streaming
        if self._is_full(streams=streams):
            return refusing(handler, self._refusal(streams=streams), method=method, domain=self._domain)

        @contextmanager
        def counted(_request: object, _context: Context) -> Iterator[None]:
            if self._is_full(streams=streams):  # others came while the request was read
                raise self._refusal(streams=streams)
            self._running[streams] += 1
            try:
                yield
            finally:
                self._running[streams] -= 1

        return guarded(handler, counted, method=method, domain=self._domain)

    def _is_full(self, *, streams: bool) -> bool:
        return self._running[streams] >= self._most[streams]

    def _refusal(self, *, streams: bool) -> ServiceError:
        what = "streams" if streams else "calls"
        return ServiceError(
            "TOO_MANY_CALLS",
            f"this server has {self._most[streams]} {what} in work, as many as it takes; send again after the delay of "
            f"RetryInfo, or have the setting MAX_{what.upper()} raised",
            limit=self._most[streams],
        )
