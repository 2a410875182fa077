"""How many calls a server has in work at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import grpc

from services.common.errors import ServiceError
from services.common.guard import GuardInterceptor
from services.common.handlers import Context, Guard, is_open


class CallLimit(GuardInterceptor):
    """Refuses calls beyond a number with TOO_MANY_CALLS, before their request is read.

    Streams wait most of their time, so they are counted apart; those of health and reflection too, which everybody may
    open. Health checks are not counted: a server that is busy is not to be restarted for it.

    Args:
        max_calls: Calls with one answer.
        max_streams: Calls with a stream of answers; as many again of those that are open to everybody.
        domain: Of ErrorInfo.
    """

    def __init__(self, *, max_calls: int, max_streams: int, domain: str) -> None:
        super().__init__(domain=domain)
        self._calls = _Counter("calls", max_calls)
        self._streams, self._open_streams = _Counter("streams", max_streams), _Counter("streams", max_streams)

    def guard(self, details: grpc.HandlerCallDetails, *, streams: bool) -> Guard | None:
        counter = self._counter_of(details.method, streams=streams)
        if counter is None:
            return None
        if counter.is_full:
            raise counter.refusal()

        @contextmanager
        def counted(_request: object, _context: Context) -> Iterator[None]:
            if counter.is_full:  # others came while the request was read
                raise counter.refusal()
            counter.running += 1
            try:
                yield
            finally:
                counter.running -= 1

        return counted

    def _counter_of(self, method: str, *, streams: bool) -> _Counter | None:
        if is_open(method):
            return self._open_streams if streams else None
        return self._streams if streams else self._calls


@dataclass
class _Counter:
    """Calls of one kind."""

    what: str
    most: int
    running: int = 0

    @property
    def is_full(self) -> bool:
        return self.running >= self.most

    def refusal(self) -> ServiceError:
        return ServiceError(
            "TOO_MANY_CALLS",
            f"this server has {self.most} {self.what} in work, as many as it takes; send again after the delay of "
            f"RetryInfo, or have the setting MAX_{self.what.upper()} raised",
            limit=self.most,
        )
