"""Sends the caller's place in its trace, where the program that uses this client is traced by OpenTelemetry.

The client itself never imports OpenTelemetry: a program that has a span has imported it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

import grpc

from services.client.call_details import CallDetails, metadata_of, with_metadata

HEADER = "traceparent"

Call = TypeVar("Call")


class TraceInterceptor(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """Adds `traceparent` to calls that are made within a span."""

    def intercept_unary_unary(
        self, continuation: Callable[..., Call], client_call_details: grpc.ClientCallDetails, request: object
    ) -> Call:
        return continuation(_traced(client_call_details), request)

    def intercept_unary_stream(
        self, continuation: Callable[..., Call], client_call_details: grpc.ClientCallDetails, request: object
    ) -> Call:
        return continuation(_traced(client_call_details), request)


def current_traceparent() -> str | None:
    """The current span of OpenTelemetry in the form of W3C Trace Context; None outside of spans."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags) & 1:02x}"


def _traced(details: grpc.ClientCallDetails) -> grpc.ClientCallDetails | CallDetails:
    parent = current_traceparent()
    if parent is None or any(key == HEADER for key, _ in metadata_of(details)):
        return details
    return with_metadata(details, HEADER, parent)
