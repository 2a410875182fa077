"""Logs as JSON lines on standard error, and one line for every call."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Collection, Mapping
from datetime import UTC, datetime

from services.common.call_record import CURRENT_CALL, CallRecord
from services.common.calls import is_quiet
from services.common.redaction import redactor

_MAX_METHOD = 200

calls = logging.getLogger("eif.calls")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the fields given as `extra={"fields": {...}}`, error.

    What is logged while a call is served has the ids of the call too. Secrets are left out, see redaction.py.

    Args:
        fields: On every line of this process.
        secrets: Values that are never written.
    """

    def __init__(self, *, fields: Mapping[str, str | None] | None = None, secrets: Collection[str] = ()) -> None:
        super().__init__()
        self._fields = {name: value for name, value in (fields or {}).items() if value is not None}
        self._redact = redactor(secrets)

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **self._fields,
            **_ids_of_the_call(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps({name: self._redact(value) for name, value in line.items()}, default=str)


def configure_logging(
    level: str = "INFO", *, fields: Mapping[str, str | None] | None = None, secrets: Collection[str] = ()
) -> None:
    """Send every log of this process to standard error as JSON lines; the arguments are those of JsonFormatter."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(fields=fields, secrets=secrets))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class CallLog:
    """A CallObserver: logs each call at its end, never what is in its messages. Probes are logged at DEBUG."""

    def begin(self, record: CallRecord) -> None:
        """Nothing is told before the end."""

    def end(self, record: CallRecord) -> None:
        method = record.method[:_MAX_METHOD]
        fields = {
            "event": "call",
            "method": method,
            "code": record.code.name,
            "duration_ms": round(record.seconds * 1000, 3),
            "peer": record.peer,
            "identity": record.identity,
            "reason": record.reason,
            **ids_of(record),
        }
        level = logging.DEBUG if is_quiet(method) else logging.INFO
        known = {key: value for key, value in fields.items() if value is not None}
        calls.log(level, "%s %s", method, record.code.name, extra={"fields": known})


def ids_of(record: CallRecord) -> dict[str, str]:
    """What finds the other lines and spans of a call."""
    place = record.place
    known = {
        "request_id": record.request_id,
        "job_uid": record.job_uid,
        "trace_id": place.trace_id if place else None,
        "span_id": place.span_id if place else None,
    }
    return {name: value for name, value in known.items() if value is not None}


def _ids_of_the_call() -> dict[str, str]:
    record = CURRENT_CALL.get()
    return ids_of(record) if record else {}
