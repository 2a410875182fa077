"""Requests that are no messages: gRPC would answer them with UNKNOWN, and write a traceback into the log."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
from google.protobuf.message import DecodeError

from services.common.errors import ServiceError
from services.common.handlers import Context, domain_of, guarded, is_open

if TYPE_CHECKING:
    from services.common.handlers import Handler


@dataclass(frozen=True)
class _Malformed:
    """Stands for a request that could not be read."""


class MalformedRequests(grpc.aio.ServerInterceptor):
    """Answers them with ARGUMENT_INVALID. In front of all who look at requests."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        handler, method = await continuation(handler_call_details), handler_call_details.method
        read = None if handler is None else handler.request_deserializer
        if handler is None or read is None or handler.request_streaming or is_open(method):
            return handler
        make: Callable[..., Handler] = (
            grpc.unary_stream_rpc_method_handler if handler.response_streaming else grpc.unary_unary_rpc_method_handler
        )
        checked = guarded(handler, _refuse_malformed, method=method, domain=domain_of(method))
        behavior = checked.unary_stream if handler.response_streaming else checked.unary_unary
        return make(behavior, _tolerant(read), handler.response_serializer)


def _tolerant(read: Callable[[bytes], object]) -> Callable[[bytes], object]:
    def tolerant(data: bytes) -> object:
        try:
            return read(data)
        except DecodeError:
            return _Malformed()

    return tolerant


@contextmanager
def _refuse_malformed(request: object, _context: Context) -> Iterator[None]:
    if isinstance(request, _Malformed):
        raise ServiceError("ARGUMENT_INVALID", "the request is not a message of the type that this method takes")
    yield
