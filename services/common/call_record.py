"""What is known of the call that is being served, between the error translation and the log."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass
class CallRecord:
    """Filled while a call runs, logged at its end."""

    method: str
    reason: str | None = None


CURRENT_CALL: ContextVar[CallRecord | None] = ContextVar("current_call", default=None)


def note_reason(reason: str) -> None:
    """Remember why the current call fails, for its log line."""
    if record := CURRENT_CALL.get():
        record.reason = reason
