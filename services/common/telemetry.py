"""Logs as JSON lines on standard error, and one line for every call."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from services.common.call_record import CURRENT_CALL, CallRecord

if TYPE_CHECKING:
    from grpc import RpcMethodHandler as _Handler  # generic for the type checker only

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")

_KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
_MAX_REQUEST_ID = 128
_QUIET = ("/grpc.health.", "/grpc.reflection.")
"""Methods that probes call all the time: logged at DEBUG."""

calls = logging.getLogger("eif.calls")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the fields given as `extra={"fields": {...}}`, error."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure_logging(level: str = "INFO") -> None:
    """Send every log of this process to standard error as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class CallLogInterceptor(grpc.aio.ServerInterceptor):
    """Logs method, code, duration, peer, request id and reason of every call; never what is in its messages."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler[_Request, _Response] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler[_Request, _Response] | None:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        for kind in _KINDS:
            behavior = getattr(handler, kind)
            if behavior is not None:
                return _rebuilt(handler, kind, _logged(behavior, handler_call_details.method))
        return handler


def _rebuilt(
    handler: _Handler[_Request, _Response], kind: str, behavior: Callable[..., object]
) -> _Handler[_Request, _Response]:
    make: Callable[..., _Handler[_Request, _Response]] = getattr(grpc, f"{kind}_rpc_method_handler")
    return make(behavior, handler.request_deserializer, handler.response_serializer)


def _logged(behavior: Callable[..., Any], method: str) -> Callable[..., Any]:
    """The handler, with its log line; coroutines and asynchronous generators alike."""
    if inspect.isasyncgenfunction(behavior):

        async def generate(request: object, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[object]:
            with _recorded(method, context):
                async for response in behavior(request, context):
                    yield response

        return generate

    async def call(request: object, context: grpc.aio.ServicerContext[Any, Any]) -> object:
        with _recorded(method, context):
            response: object = await behavior(request, context)
            return response

    return call


@contextmanager
def _recorded(method: str, context: grpc.aio.ServicerContext[Any, Any]) -> Iterator[None]:
    record = CallRecord(method=method)
    CURRENT_CALL.set(record)  # never reset: each call has a task, and so a context, of its own
    started = time.monotonic()
    code = grpc.StatusCode.OK
    try:
        yield
        code = _code(context, grpc.StatusCode.OK)
    except asyncio.CancelledError:
        code = grpc.StatusCode.CANCELLED
        raise
    except BaseException:
        code = _code(context, grpc.StatusCode.UNKNOWN)
        raise
    finally:
        _log(record, code, time.monotonic() - started, context)


def _log(
    record: CallRecord, code: grpc.StatusCode, seconds: float, context: grpc.aio.ServicerContext[Any, Any]
) -> None:
    fields = {
        "event": "call",
        "method": record.method,
        "code": code.name,
        "duration_ms": round(seconds * 1000, 3),
        "peer": context.peer(),
        "request_id": _request_id(context),
        "reason": record.reason,
    }
    level = logging.DEBUG if record.method.startswith(_QUIET) else logging.INFO
    known = {key: value for key, value in fields.items() if value is not None}
    calls.log(level, "%s %s", record.method, code.name, extra={"fields": known})


def _code(context: grpc.aio.ServicerContext[Any, Any], default: grpc.StatusCode) -> grpc.StatusCode:
    """What the handler set, as an enum: the library stores a number, or nothing."""
    value: object = context.code()
    number = value.value[0] if isinstance(value, grpc.StatusCode) else value
    return next((code for code in grpc.StatusCode if number and code.value[0] == number), default)


def _request_id(context: grpc.aio.ServicerContext[Any, Any]) -> str | None:
    for key, value in context.invocation_metadata() or ():
        if key == "x-request-id" and isinstance(value, str):
            return value[:_MAX_REQUEST_ID]
    return None
