"""A channel that goes on with other certificates when their files change."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import grpc

from services.common.followed_files import FollowedFiles

Material = TypeVar("Material")


class FollowingChannel(grpc.Channel, Generic[Material]):
    """Each call runs on a connection that was made with what the files held when the call began.

    Calls that run while the files change stay where they are; their connection is closed once they have ended.

    Args:
        files: Looked at when a call begins.
        connect: Makes a channel with what is in them.
    """

    def __init__(self, files: FollowedFiles[Material], connect: Callable[[Material], grpc.Channel]) -> None:
        self._files, self._connect = files, connect
        self._lock = threading.Lock()
        self._material = files.current()
        self._line = _Line(connect(self._material))
        self._left: list[_Line] = []

    def unary_unary(self, *method: Any, **options: Any) -> Any:  # noqa: ANN401  generic in messages, as the channel is
        return _Method(self, lambda channel: channel.unary_unary(*method, **options))

    def unary_stream(self, *method: Any, **options: Any) -> Any:  # noqa: ANN401  as above
        return _Method(self, lambda channel: channel.unary_stream(*method, **options))

    def stream_unary(self, *method: Any, **options: Any) -> Any:  # noqa: ANN401  as above
        return _Method(self, lambda channel: channel.stream_unary(*method, **options))

    def stream_stream(self, *method: Any, **options: Any) -> Any:  # noqa: ANN401  as above
        return _Method(self, lambda channel: channel.stream_stream(*method, **options))

    def subscribe(self, callback: Callable[[grpc.ChannelConnectivity], None], try_to_connect: bool = False) -> None:  # noqa: FBT001, FBT002  its signature
        self._line.channel.subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        for line in (*self._left, self._line):
            line.channel.unsubscribe(callback)

    def close(self) -> None:
        """Close every connection; the calls on them end."""
        with self._lock:
            lines, self._left = [*self._left, self._line], []
        for line in lines:
            line.channel.close()

    def __enter__(self) -> FollowingChannel[Material]:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def begin(self) -> _Line:
        """The connection for a call that begins; `end` it once."""
        material = self._files.current()
        with self._lock:
            if material is not self._material:
                self._left.append(self._line)
                self._material, self._line = material, _Line(self._connect(material))
            self._line.running += 1
            line, ended = self._line, [left for left in self._left if not left.running]
            self._left = [left for left in self._left if left.running]
        for left in ended:  # here, and not where their last call ended: that may be a thread of the channel's own
            left.channel.close()
        return line

    def end(self, line: _Line) -> None:
        """A call has ended."""
        with self._lock:
            line.running -= 1


class _Line:
    """A channel, and how many calls run on it."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel, self.running = channel, 0


class _Method:
    """A method of a service, of any kind."""

    def __init__(self, channel: FollowingChannel[Any], of: Callable[[grpc.Channel], Any]) -> None:
        self._channel, self._of = channel, of

    def __call__(self, *request: Any, **options: Any) -> Any:  # noqa: ANN401  generic in messages
        with self._on_a_line() as (line, running):
            return running(self._of(line.channel)(*request, **options))

    def with_call(self, *request: Any, **options: Any) -> Any:  # noqa: ANN401  generic in messages
        """The answer, and the call that it came with."""
        with self._on_a_line() as (line, _):
            return self._of(line.channel).with_call(*request, **options)

    def future(self, *request: Any, **options: Any) -> Any:  # noqa: ANN401  generic in messages
        """The answer to be."""
        with self._on_a_line() as (line, running):
            return running(self._of(line.channel).future(*request, **options))

    @contextmanager
    def _on_a_line(self) -> Iterator[tuple[_Line, Callable[[Any], Any]]]:
        """A connection, given back at the end of the block; or, of what still runs then, at its end."""
        line, goes_on = self._channel.begin(), False

        def running(outcome: Any) -> Any:  # noqa: ANN401  a message, or a call that gives some
            nonlocal goes_on
            goes_on = isinstance(outcome, grpc.RpcContext) and outcome.add_callback(lambda: self._channel.end(line))
            return outcome

        try:
            yield line, running
        finally:
            if not goes_on:
                self._channel.end(line)
