"""A span for every call, as a child of the caller's."""

from __future__ import annotations

import grpc

from services.common.call_record import CallRecord
from services.common.calls import is_quiet
from services.common.tracing import Attribute, Span, SpanKind, Tracing

_FAULTS_OF_THE_SERVER = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
"""Statuses that make the span of a server an error, by OpenTelemetry's conventions; the others are the caller's."""


class CallTracing:
    """A CallObserver. Calls of health and reflection, and of methods that are not there, have no span."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing
        self._spans: dict[int, Span] = {}

    def begin(self, record: CallRecord) -> None:
        if not record.known or is_quiet(record.method):
            return
        service, _, method = record.method.strip("/").rpartition("/")
        span = self._tracing.start(
            f"{service}/{method}",
            parent=record.place,
            kind=SpanKind.SERVER,
            attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": method},
        )
        record.place = span.place
        self._spans[id(record)] = span

    def end(self, record: CallRecord) -> None:
        span = self._spans.pop(id(record), None)
        if span is None:
            return
        failed = record.code in _FAULTS_OF_THE_SERVER
        span.end(error=(record.reason or record.code.name) if failed else None, attributes=_facts(record))


def _facts(record: CallRecord) -> dict[str, Attribute]:
    known = {
        "rpc.grpc.status_code": record.code.value[0],
        "eif.reason": record.reason,
        "eif.identity": record.identity,
        "eif.job_uid": record.job_uid,
        "eif.request_id": record.request_id,
    }
    return {name: value for name, value in known.items() if value is not None}
