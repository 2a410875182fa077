"""The interceptor that sees every call from its first to its last moment, and tells those who observe calls."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import grpc

from services.common.call_messages import CountedContext, CountedRequests
from services.common.call_record import CURRENT_CALL, CallRecord
from services.common.traceparent import TraceParent

if TYPE_CHECKING:
    from grpc import RpcMethodHandler as _Handler  # generic for the type checker only

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
_Context = grpc.aio.ServicerContext[Any, Any]

_KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
_MAX_REQUEST_ID = 128
_QUIET = ("/grpc.health.", "/grpc.reflection.")


class CallObserver(Protocol):
    """Is told of every call: at its beginning, and at its end with all that is known of it then."""

    def begin(self, record: CallRecord) -> None:
        """A call begins."""
        ...

    def end(self, record: CallRecord) -> None:
        """It has ended, however."""
        ...


def is_quiet(method: str) -> bool:
    """Whether probes call this method all the time, so that nobody wants to read of it."""
    return method.startswith(_QUIET)


class CallInterceptor(grpc.aio.ServerInterceptor):
    """In front of all others, so that it sees what they refuse, and calls of methods that there are not.

    Args:
        observers: Told in this order; at the end in the reverse order.
    """

    def __init__(self, observers: Sequence[CallObserver]) -> None:
        self._observers = tuple(observers)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler[_Request, _Response] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler[_Request, _Response] | None:
        record = _record(handler_call_details)
        CURRENT_CALL.set(record)
        handler = await continuation(handler_call_details)
        if handler is None:
            self._never_began(record)
            return None
        for kind in _KINDS:
            behavior = getattr(handler, kind)
            if behavior is not None:
                return _rebuilt(handler, kind, self._observed(behavior, kind, record))
        return handler

    def _never_began(self, record: CallRecord) -> None:
        """Tell of a call of a method that is not there, which gRPC itself answers."""
        record.known, record.code = False, grpc.StatusCode.UNIMPLEMENTED
        self._begin(record)
        self._end(record)

    def _observed(self, behavior: Callable[..., Any], kind: str, record: CallRecord) -> Callable[..., Any]:
        """The handler, observed; coroutines and asynchronous generators alike."""
        requests, responses = kind.split("_")

        def arguments(request: Any, context: _Context) -> tuple[Any, Any]:  # noqa: ANN401  the type of the method
            if requests == "unary":
                record.received = 1
                return request, context if responses == "unary" else CountedContext(context, record)
            return CountedRequests(request, record), CountedContext(context, record)

        if inspect.isasyncgenfunction(behavior):

            async def generate(request: object, context: _Context) -> AsyncIterator[object]:
                with self._observing(record, context):
                    async for response in behavior(*arguments(request, context)):
                        record.sent += 1
                        yield response

            return generate

        async def call(request: object, context: _Context) -> object:
            with self._observing(record, context):
                response: object = await behavior(*arguments(request, context))
                record.sent += responses == "unary"
                return response

        return call

    @contextmanager
    def _observing(self, record: CallRecord, context: _Context) -> Iterator[None]:
        record.peer = context.peer()
        self._begin(record)
        try:
            yield
            record.code = _code(context, grpc.StatusCode.OK)
        except (asyncio.CancelledError, GeneratorExit):
            record.code = grpc.StatusCode.CANCELLED
            raise
        except BaseException:
            record.code = _code(context, grpc.StatusCode.UNKNOWN)
            raise
        finally:
            self._end(record)

    def _begin(self, record: CallRecord) -> None:
        for observer in self._observers:
            observer.begin(record)

    def _end(self, record: CallRecord) -> None:
        record.seconds = time.monotonic() - record.started
        for observer in reversed(self._observers):
            observer.end(record)


def _record(details: grpc.HandlerCallDetails) -> CallRecord:
    metadata = list(details.invocation_metadata or ())
    request_id = next((value for key, value in metadata if key == "x-request-id" and isinstance(value, str)), None)
    return CallRecord(
        method=details.method,
        request_id=request_id[:_MAX_REQUEST_ID] if request_id else None,
        place=TraceParent.among(metadata),
    )


def _rebuilt(
    handler: _Handler[_Request, _Response], kind: str, behavior: Callable[..., object]
) -> _Handler[_Request, _Response]:
    make: Callable[..., _Handler[_Request, _Response]] = getattr(grpc, f"{kind}_rpc_method_handler")
    return make(behavior, handler.request_deserializer, handler.response_serializer)


def _code(context: _Context, default: grpc.StatusCode) -> grpc.StatusCode:
    """What the handler set, as an enum: the library stores a number, or nothing."""
    value: object = context.code()
    number = value.value[0] if isinstance(value, grpc.StatusCode) else value
    return next((code for code in grpc.StatusCode if number and code.value[0] == number), default)
