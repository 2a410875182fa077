"""Server streams that survive a lost connection and never outlive their reader."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

import grpc

from services.client.connection import Connection, ServerStream, client_closed
from services.client.errors import DeadlineExceeded, EifRpcError, Unavailable, from_rpc_error
from services.client.reconnect import Reconnect

Message = TypeVar("Message")
Item = TypeVar("Item")


class Closable(Protocol):
    """What is closed with a stream."""

    def close(self) -> object: ...


class Stream(Generic[Item]):
    """An iterator whose call on the server ends with it: at its end, on `close`, and when nobody refers to it any more.

    Use it in a `with` when the loop over it may be left early and the iterator is kept.
    """

    def __init__(self, items: Generator[Item, None, None], *sources: Closable) -> None:
        # Only what the stream reads from, never itself: a cycle would keep the call alive until garbage is collected.
        self._items = items
        self._sources = sources

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Item:
        return next(self._items)

    def close(self) -> None:
        """Cancel the call on the server; iterating further ends at once."""
        self._items.close()
        for source in self._sources:
            source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def resuming(
    open_call: Callable[[float], ServerStream[Message]],
    *,
    connection: Connection,
    reconnect: Reconnect,
    is_complete: Callable[[], bool],
    deadline: float | None = None,
) -> Generator[Message, None, None]:
    """Messages of a server stream that is opened again wherever it breaks.

    Args:
        open_call: Opens the stream where the messages so far ended; takes the deadline of the call in seconds.
        connection: The connection that the call runs on.
        reconnect: How patient to be.
        is_complete: Whether a stream that the server ended was complete; otherwise it is opened again.
        deadline: `time.monotonic()` at which to give up with DeadlineExceeded, WAIT_TIMEOUT; None never.

    Yields:
        The messages of one call after the other. The call that runs is cancelled whenever the iterator ends.

    Raises:
        EifRpcError: What the service said, or that the connection could not be had again in time.
    """
    heard = time.monotonic()
    delays = reconnect.delays()
    while True:
        connection.check_open()
        call = open_call(_call_timeout(reconnect, deadline))
        try:
            for message in call:
                delays = reconnect.delays()
                yield message
                heard = time.monotonic()
            if is_complete():
                return
            failure: EifRpcError = _ended_early(connection.target)
        except grpc.RpcError as error:
            failure = from_rpc_error(error, target=connection.target)
            if connection.closed:
                raise client_closed(connection.target) from error
            if not is_lost(failure):
                raise failure from error
        finally:
            call.cancel()
        _pause(next(delays), failure, heard=heard, reconnect=reconnect, deadline=deadline)


def is_lost(failure: EifRpcError) -> bool:
    """Whether a stream that failed like this may be opened again.

    UNAVAILABLE says so. Without ErrorInfo it was not the service that spoke: its process ended (CANCELLED), a proxy
    reset the stream (INTERNAL), or the deadline of the one call has passed.
    """
    match failure.code:
        case grpc.StatusCode.UNAVAILABLE:
            return True
        case grpc.StatusCode.CANCELLED | grpc.StatusCode.DEADLINE_EXCEEDED:
            return not failure.from_service
        case grpc.StatusCode.INTERNAL:
            return not failure.from_service and "RST_STREAM" in failure.message
        case _:
            return False


def _call_timeout(reconnect: Reconnect, deadline: float | None) -> float:
    if deadline is None:
        return reconnect.attempt_timeout
    return max(0.001, min(reconnect.attempt_timeout, deadline - time.monotonic()))


def _pause(delay: float, failure: EifRpcError, *, heard: float, reconnect: Reconnect, deadline: float | None) -> None:
    now = time.monotonic()
    if deadline is not None and now + delay >= deadline:
        raise DeadlineExceeded(
            grpc.StatusCode.DEADLINE_EXCEEDED, "WAIT_TIMEOUT", f"the time to wait is over: {failure.message}"
        ) from failure
    if now + delay - heard > reconnect.patience:
        raise failure
    time.sleep(delay)


def _ended_early(target: str) -> Unavailable:
    failure = Unavailable(
        grpc.StatusCode.UNAVAILABLE, "SERVER_UNREACHABLE", f"{target} ended a stream too early", {"target": target}
    )
    failure.from_service = False
    return failure
