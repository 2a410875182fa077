"""Counts the messages of streams on their way through a handler."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from typing import Any, Self

import grpc

from services.common.call_record import CallRecord


class CountedContext:
    """The context of a call, which counts what is written to it and read from it. All else is the context's own."""

    def __init__(self, context: grpc.aio.ServicerContext[Any, Any], record: CallRecord) -> None:
        self._context, self._record = context, record

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  whatever the context has
        return getattr(self._context, name)

    async def write(self, message: object) -> None:
        """Send a message."""
        await self._context.write(message)
        self._record.sent += 1

    async def read(self) -> object:
        """The next message of the caller, or EOF."""
        message: object = await self._context.read()
        self._record.received += message is not grpc.aio.EOF
        return message


class CountedRequests:
    """The messages of a caller. Not a generator: those stay open when a call ends early."""

    def __init__(self, requests: AsyncIterable[object], record: CallRecord) -> None:
        self._requests, self._record = requests, record
        self._iterator: AsyncIterator[object] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> object:
        if self._iterator is None:  # now, and not before: gRPC begins a generator here
            self._iterator = aiter(self._requests)
        message = await anext(self._iterator)
        self._record.received += 1
        return message
