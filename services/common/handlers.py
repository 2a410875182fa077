"""Handlers made of other handlers, for interceptors: with something done first, or refused at once."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import grpc

from eif_engine.errors import EifError
from services.common.rpc_errors import translate_errors

if TYPE_CHECKING:
    from grpc import RpcMethodHandler as _Handler  # generic for the type checker only

    Handler = _Handler[Any, Any]

Context = grpc.aio.ServicerContext[Any, Any]
Guard = Callable[[Any, Context], AbstractContextManager[None]]
"""Entered with the request (an iterator where that is a stream) before a handler runs; its EifError ends the call."""

_KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
_OPEN = ("/grpc.health.v1.", "/grpc.reflection.v1alpha.")


def is_open(method: str) -> bool:
    """Whether a method is of the services that everybody may call: health and, where it is on, reflection."""
    return method.startswith(_OPEN)


def domain_of(method: str) -> str:
    """Of errors of a method: /eif.influence.v1.InfluenceService/... has influence.eif.dev."""
    return ".".join(reversed(method.removeprefix("/").split(".")[:2])) + ".dev"


def guarded(handler: Handler, guard: Guard, *, method: str, domain: str) -> Handler:
    """The handler within a guard."""
    kind = next(kind for kind in _KINDS if getattr(handler, kind) is not None)
    make: Callable[..., Handler] = getattr(grpc, f"{kind}_rpc_method_handler")
    behavior = _within(getattr(handler, kind), guard, method.rpartition("/")[2], domain)
    return make(behavior, handler.request_deserializer, handler.response_serializer)


def refusing(handler: Handler, error: EifError, *, method: str, domain: str) -> Handler:
    """A handler that ends the call with an error.

    It takes a stream whatever the method takes: so the request is not waited for, and not read into memory.
    """

    async def refuse(_requests: object, context: Context) -> None:
        async with translate_errors(context, method.rpartition("/")[2], domain):
            raise error

    if handler.response_streaming:
        return grpc.stream_stream_rpc_method_handler(refuse)
    return grpc.stream_unary_rpc_method_handler(refuse)


def _within(behavior: Callable[..., Any], guard: Guard, rpc: str, domain: str) -> Callable[..., Any]:
    if inspect.isasyncgenfunction(behavior):

        async def generate(request: object, context: Context) -> AsyncIterator[object]:
            async with translate_errors(context, rpc, domain):
                with guard(request, context):
                    async for response in behavior(request, context):
                        yield response

        return generate

    async def call(request: object, context: Context) -> object:
        async with translate_errors(context, rpc, domain):
            with guard(request, context):
                response: object = await behavior(request, context)
                return response

    return call
