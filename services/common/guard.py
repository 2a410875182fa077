"""What interceptors that admit, know and permit callers have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import grpc

from eif_engine.errors import EifError
from services.common.handlers import Guard, guarded, refusing

if TYPE_CHECKING:
    from services.common.handlers import Handler


class GuardInterceptor(grpc.aio.ServerInterceptor, ABC):
    """Lets calls run within a guard, or refuses them before their request is read.

    Args:
        domain: Of ErrorInfo.
    """

    def __init__(self, *, domain: str) -> None:
        self._domain = domain

    @abstractmethod
    def guard(self, details: grpc.HandlerCallDetails, *, streams: bool) -> Guard | None:
        """What a call runs within; None for one that needs no guard.

        Args:
            details: Of the call: its method and metadata. Its request is not known yet.
            streams: Whether its answer is a stream.

        Raises:
            EifError: The call is refused.
        """

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        handler, method = await continuation(handler_call_details), handler_call_details.method
        if handler is None:
            return None
        try:
            guard = self.guard(handler_call_details, streams=handler.response_streaming)
        except EifError as error:
            return refusing(handler, error, method=method, domain=self._domain)
        return handler if guard is None else guarded(handler, guard, method=method, domain=self._domain)
