"""What clients have seen: every call, when it began and ended, and what came of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path


class Operation(StrEnum):
    """What a client did; FAULT is what was done to the servers."""

    CREATE = "create"
    GET = "get"
    LIST = "list"
    WATCH = "watch"
    STREAM = "stream"
    CANCEL = "cancel"
    DELETE = "delete"
    FAULT = "fault"


class Plan(StrEnum):
    """What the process of a job does, see `traffic.Traffic.steps`."""

    SUCCEED = "succeed"
    CRASH_ONCE = "crash once, then succeed"
    FAIL = "fail"


OK = "OK"
CORRUPTED = "corrupt_tables"
"""The fault while which tables arrive damaged: a stream may say so, and must not hand them on."""
REPLACED = "replace_inputs"
"""The fault while which what jobs read is replaced: a job may end for that reason, and must not mix both."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """One call, or one job that a call has shown.

    Attributes:
        operation: Which.
        begun: Seconds on the clock of the test when it began.
        ended: The same when its answer was there.
        outcome: Name of the status code.
        reason: Of ErrorInfo, where it failed with one.
        name: Of the job; empty where the call was about none, or failed before there was a name.
        uid: Of the job, where the answer told.
        state: Of the job, where the answer told, without its prefix.
        error: Reason for which the job failed, where the answer told.
        plan: Of the job; for creates.
        request_id: For creates.
        rows: Digest of all rows in their order, for streams that came to their end.
    """

    operation: Operation
    begun: float
    ended: float
    outcome: str
    reason: str = ""
    name: str = ""
    uid: str = ""
    state: str = ""
    error: str = ""
    plan: str = ""
    request_id: str = ""
    rows: str = ""


class History:
    """Events in the order in which they ended; thread-safe."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._lock = threading.Lock()

    def add(self, event: Event) -> None:
        """Note one."""
        with self._lock:
            self._events.append(event)

    @property
    def events(self) -> tuple[Event, ...]:
        """All so far."""
        with self._lock:
            return tuple(self._events)

    def write(self, path: Path) -> None:
        """As lines of JSON."""
        path.write_text(text(self.events))


def text(events: Iterable[Event]) -> str:
    """Events as lines of JSON, without what they leave empty."""
    told = ({key: value for key, value in asdict(event).items() if value != ""} for event in events)
    return "".join(f"{json.dumps(event)}\n" for event in told)
