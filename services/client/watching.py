"""Following a resource to its end, over lost connections."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from typing import TypeVar

from services.client.connection import Connection, ServerStream
from services.client.reconnect import Reconnect
from services.client.streams import Stream, resuming

Event = TypeVar("Event")
Resource = TypeVar("Resource")


def watch(
    open_call: Callable[[float], ServerStream[Event]],
    *,
    resource_of: Callable[[Event], Resource],
    is_terminal: Callable[[Resource], bool],
    connection: Connection,
    reconnect: Reconnect,
    deadline: float | None = None,
) -> Stream[Resource]:
    """The resource now and at every change, the last time in its terminal state.

    Heartbeats, and what was already seen before the connection was lost, are left out.
    """
    changes = _changes(
        resuming(open_call, connection=connection, reconnect=reconnect, is_complete=lambda: False, deadline=deadline),
        resource_of,
        is_terminal,
    )
    return Stream(changes)


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
