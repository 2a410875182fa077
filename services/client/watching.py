"""Following a resource to its end, over lost connections."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing
from typing import TypeVar

from services.client.connection import Connection, ServerStream
from services.client.errors import DeadlineExceeded
from services.client.reconnect import Reconnect
from services.client.streams import Stream, resuming

Event = TypeVar("Event")
Resource = TypeVar("Resource")


def watch(
    open_call: Callable[[float], ServerStream[Event]],
    *,
    name: str,
    resource_of: Callable[[Event], Resource],
    is_terminal: Callable[[Resource], bool],
    connection: Connection,
    reconnect: Reconnect,
    timeout: float | None,
) -> Stream[Resource]:
    """The resource `name` now and at every change, the last time in its terminal state.

    Heartbeats, and what was already seen before the connection was lost, are left out. After `timeout` seconds it
    raises DeadlineExceeded with the reason WAIT_TIMEOUT.
    """
    events = resuming(
        open_call,
        connection=connection,
        reconnect=reconnect,
        is_complete=lambda: False,
        deadline=time.monotonic() + timeout if timeout is not None else None,
    )
    return Stream(_changes(_named(events, name, timeout), resource_of, is_terminal))


def last_of(changes: Stream[Resource]) -> Resource | None:
    """The last of the changes, once there are no more."""
    last: Resource | None = None
    with changes:
        for change in changes:
            last = change
    return last


def _changes(
    events: Generator[Event, None, None],
    resource_of: Callable[[Event], Resource],
    is_terminal: Callable[[Resource], bool],
) -> Generator[Resource, None, None]:
    last: Resource | None = None
    with closing(events):
        for event in events:
            resource = resource_of(event)
            if resource == last:
                continue
            last = resource
            yield resource
            if is_terminal(resource):
                return


def _named(events: Generator[Event, None, None], name: str, timeout: float | None) -> Generator[Event, None, None]:
    try:
        with closing(events):
            yield from events
    except DeadlineExceeded as error:
        if error.reason != "WAIT_TIMEOUT" or timeout is None:
            raise
        message = f"{name} has not ended after {timeout:g} s; it goes on"
        raise DeadlineExceeded(error.code, error.reason, message, {"name": name}) from error
