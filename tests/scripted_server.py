"""A real gRPC server whose handlers a test writes, for what a good server never does: break, lie, hang."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from tests.loop_thread import LoopThread

Context = grpc.aio.ServicerContext[Any, Any]
Handler = Callable[[Any, Context], Awaitable[Message | None]]


class ScriptedServer:
    """One service on a port of its own. Methods without a handler are UNIMPLEMENTED.

    Args:
        service: Descriptor of the service.
        handlers: By method name; a stream's handler writes to the context and returns None.

    Attributes:
        calls: Every request so far, with its method name.
    """

    def __init__(self, service: ServiceDescriptor, handlers: Mapping[str, Handler]) -> None:
        self.calls: list[tuple[str, Any]] = []
        self._service = service
        self._handlers = handlers
        self._running = 0
        self._changed = threading.Condition()
        self._thread = LoopThread()
        self._server: grpc.aio.Server | None = None
        self.port = 0
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        self._thread.__exit__(kind, error, traceback)

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Serve; again on the same port after a stop."""
        self._thread.run(self._start())

    def stop(self) -> None:
        """End at once; calls that run are cut."""
        if self._server is not None:
            self._thread.run(self._server.stop(grace=None))
            self._server = None

    def requests(self, method: str) -> list[Any]:
        """The requests of one method so far."""
        return [request for name, request in self.calls if name == method]

    def wait_until_idle(self, timeout: float = 5.0) -> bool:
        """Whether no handler runs any more, waiting for it."""
        with self._changed:
            return self._changed.wait_for(lambda: self._running == 0, timeout)

    def wait_until_busy(self, timeout: float = 5.0) -> bool:
        """Whether a handler runs, waiting for it."""
        with self._changed:
            return self._changed.wait_for(lambda: self._running > 0, timeout)

    async def _start(self) -> None:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        methods = {method.name: self._method_handler(method) for method in self._service.methods}
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(self._service.full_name, methods)])
        self.port = server.add_insecure_port(f"127.0.0.1:{self.port}")
        await server.start()
        self._server = server

    def _method_handler(self, method: MethodDescriptor) -> grpc.RpcMethodHandler[Any, Any]:
        make = grpc.unary_stream_rpc_method_handler if method.server_streaming else grpc.unary_unary_rpc_method_handler
        return make(
            self._tracked(method.name),
            request_deserializer=GetMessageClass(method.input_type).FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )

    def _tracked(self, name: str) -> Handler:
        async def handle(request: Message, context: Context) -> Message | None:
            self.calls.append((name, request))
            self._count(+1)
            try:
                handler = self._handlers.get(name)
                if handler is None:
                    await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{name} is not scripted")
                return await handler(request, context)
            finally:
                self._count(-1)

        return handle

    def _count(self, change: int) -> None:
        with self._changed:
            self._running += change
            self._changed.notify_all()


async def refuse(context: Context, code: grpc.StatusCode, reason: str, message: str, **metadata: str) -> None:
    """End a call as the real services do: with google.rpc.ErrorInfo."""
    await context.abort_with_status(rpc_status.to_status(status(code, reason, message, **metadata)))


def status(code: grpc.StatusCode, reason: str, message: str, **metadata: str) -> status_pb2.Status:
    """A google.rpc.Status with ErrorInfo."""
    number: int = code.value[0]
    result = status_pb2.Status(code=number, message=message)
    info = error_details_pb2.ErrorInfo(reason=reason, domain="influence.eif.dev", metadata=metadata)
    result.details.add().Pack(info)
    return result
