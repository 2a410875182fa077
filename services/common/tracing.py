"""Spans as the services see them; where traces are off, or OpenTelemetry is not installed, none are made.

Parents are given as they travel, in the form of `traceparent`, never as a context variable: streams, threads and other
processes then cannot end in the context of somebody else.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from importlib.util import find_spec
from typing import Protocol

from services.common.traceparent import TraceParent

Attribute = str | int | float | bool

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

logger = logging.getLogger(__name__)


class SpanKind(Enum):
    """What a span is of."""

    SERVER = "server"
    CLIENT = "client"
    INTERNAL = "internal"


class Span(Protocol):
    """A piece of work under way."""

    @property
    def place(self) -> TraceParent | None:
        """Where it is in its trace; what is done for it has this as its parent."""
        ...

    def end(self, *, error: str | None = None, attributes: Mapping[str, Attribute] | None = None) -> None:
        """It is over; `error` is the reason why it failed. Only the first call counts."""
        ...


class Tracing(Protocol):
    """Makes spans and sends them away."""

    def start(
        self,
        name: str,
        *,
        parent: TraceParent | None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Mapping[str, Attribute] | None = None,
    ) -> Span:
        """Begin a span; without a parent it begins a trace."""
        ...

    @contextmanager
    def current(self, span: Span) -> Iterator[None]:
        """Within the block, on this thread, clients that know OpenTelemetry send the span as their parent."""
        ...

    def close(self, *, timeout_s: float) -> None:
        """Send what is left, for at most so long."""
        ...


class Untraced:
    """A span that is not recorded: it only hands its parent on."""

    def __init__(self, place: TraceParent | None) -> None:
        self.place = place

    def end(self, *, error: str | None = None, attributes: Mapping[str, Attribute] | None = None) -> None:
        """Nothing is kept."""


class NoTracing:
    """Records nothing."""

    def start(
        self,
        name: str,  # noqa: ARG002  the form of Tracing
        *,
        parent: TraceParent | None,
        kind: SpanKind = SpanKind.INTERNAL,  # noqa: ARG002  the form of Tracing
        attributes: Mapping[str, Attribute] | None = None,  # noqa: ARG002  the form of Tracing
    ) -> Span:
        return Untraced(parent)

    @contextmanager
    def current(self, span: Span) -> Iterator[None]:  # noqa: ARG002  the form of Tracing
        yield

    def close(self, *, timeout_s: float) -> None:
        """Nothing is left."""


def open_tracing(service: str, environ: Mapping[str, str]) -> Tracing:
    """Tracing as the standard variables say: on when an OTLP endpoint is set. OpenTelemetry reads the rest of them.

    Args:
        service: Name of the process in traces, unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES give one.
        environ: The environment.
    """
    endpoint = any(environ.get(name) for name in _ENDPOINTS)
    if not endpoint or environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return NoTracing()
    if find_spec("opentelemetry") is None or find_spec("opentelemetry.exporter") is None:
        logger.warning(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, but OpenTelemetry is not installed: no traces are sent; "
            "install the extra `tracing`, or unset it"
        )
        return NoTracing()
    from services.common.otel import OtelTracing

    named = environ.get("OTEL_SERVICE_NAME") or "service.name=" in environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return OtelTracing(None if named else service)
