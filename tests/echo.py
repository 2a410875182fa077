"""A service whose four methods do what a test gives them, on a real server; messages are plain bytes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool

from services.common.server import RunningServer, start_server

SERVICE = "test.Echo"
DOMAIN = "test.eif.dev"
METHODS = ("Unary", "Stream", "Collect", "Chat")


def _describe() -> None:
    """Tell the methods as a .proto file would; metrics take them from there."""
    file = descriptor_pb2.FileDescriptorProto(name="test/echo.proto", package="test", syntax="proto3")
    file.message_type.add(name="Nothing")
    service = file.service.add(name="Echo")
    for name in METHODS:
        method = service.method.add(name=name, input_type=".test.Nothing", output_type=".test.Nothing")
        method.client_streaming, method.server_streaming = name in {"Collect", "Chat"}, name in {"Stream", "Chat"}
    descriptor_pool.Default().Add(file)


_describe()


def register_echo(body: Callable[..., Any]) -> Callable[[grpc.aio.Server], None]:
    """Every method of the service runs `body(request or iterator, context)`."""
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "Unary": grpc.unary_unary_rpc_method_handler(body),
        "Stream": grpc.unary_stream_rpc_method_handler(body),
        "Collect": grpc.stream_unary_rpc_method_handler(body),
        "Chat": grpc.stream_stream_rpc_method_handler(body),
    }
    handler = grpc.method_handlers_generic_handler(SERVICE, handlers)
    return lambda server: server.add_generic_rpc_handlers((handler,))


async def read_all(request: Any) -> list[bytes]:
    """All that a call has brought. A call that ends before its requests have come may fail on the client's side."""
    return [request] if isinstance(request, bytes) else [each async for each in request]


@asynccontextmanager
async def echo_server(
    body: Callable[..., Any], **options: Any
) -> AsyncIterator[tuple[RunningServer, grpc.aio.Channel]]:
    """A server with the service, and a channel to it."""
    running = await start_server(listen="127.0.0.1:0", services={SERVICE: register_echo(body)}, **options)
    try:
        async with grpc.aio.insecure_channel(running.address) as channel:
            yield running, channel
    finally:
        await running.drain(None)


async def call(channel: grpc.aio.Channel, method: str, request: bytes = b"request", **options: Any) -> list[bytes]:
    """All that a method answers."""
    path = f"/{SERVICE}/{method}"
    if method == "Unary":
        unary: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
        return [await unary(request, **options)]
    if method == "Stream":
        return [answer async for answer in open_stream(channel, request, **options)]
    if method == "Collect":
        collect: grpc.aio.StreamUnaryMultiCallable[bytes, bytes] = channel.stream_unary(path)
        return [await collect(iter([request]), **options)]
    chat: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(path)
    return [answer async for answer in chat(iter([request]), **options)]


def open_stream(
    channel: grpc.aio.Channel, request: bytes = b"request", **options: Any
) -> grpc.aio.UnaryStreamCall[bytes, bytes]:
    """The answers of `Stream`, one by one."""
    stream: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(f"/{SERVICE}/Stream")
    return stream(request, **options)
