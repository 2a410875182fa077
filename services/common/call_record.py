"""What is known of the call that is being served: filled while it runs, then logged, counted and traced."""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass, field

import grpc

from services.common.traceparent import TraceParent


@dataclass
class CallRecord:
    """One call.

    Attributes:
        method: `/service/method`, as the caller wrote it.
        known: Whether this server has that method.
        peer: Address of the caller.
        identity: Who the caller is, once that is proven.
        request_id: What the caller calls the request.
        place: Where the call is in its trace; the parent of what is done for it.
        job_uid: The job that it is about.
        reason: Of the error that ends it.
        code: Its status, at its end.
        received: Messages from the caller.
        sent: Messages to the caller.
        requests: To other systems, so far.
        started: Monotonic, in seconds.
        seconds: From its start to its end.
    """

    method: str
    known: bool = True
    peer: str | None = None
    identity: str | None = None
    request_id: str | None = None
    place: TraceParent | None = None
    job_uid: str | None = None
    reason: str | None = None
    code: grpc.StatusCode = grpc.StatusCode.OK
    received: int = 0
    sent: int = 0
    requests: int = 0
    started: float = field(default_factory=time.monotonic)
    seconds: float = 0.0


MAX_REQUEST_SPANS = 100
"""Of one call, and of the work that goes on after it: an index is built of a million images, each a request."""

CURRENT_CALL: ContextVar[CallRecord | None] = ContextVar("current_call", default=None)
"""Set once for each call and never reset: a call has a task, and so a context, of its own."""


def note_reason(reason: str) -> None:
    """Remember why the current call fails."""
    if record := CURRENT_CALL.get():
        record.reason = reason


def note_identity(identity: str) -> None:
    """Remember who makes the current call."""
    if record := CURRENT_CALL.get():
        record.identity = identity


def note_job(uid: str) -> None:
    """Remember which job the current call is about."""
    if record := CURRENT_CALL.get():
        record.job_uid = uid


def current_place() -> TraceParent | None:
    """Where the current call is in its trace; None outside of calls, and for a call without a trace."""
    record = CURRENT_CALL.get()
    return record.place if record else None


def place_of_request() -> TraceParent | None:
    """The parent of the span of a request to another system; None when it is to have none."""
    record = CURRENT_CALL.get()
    if record is None:
        return None
    record.requests += 1
    return record.place if record.requests <= MAX_REQUEST_SPANS else None
