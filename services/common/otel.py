"""Tracing by OpenTelemetry, sent over OTLP. Imported only where traces are on."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from eif_engine import __version__
from services.common.traceparent import TraceParent
from services.common.tracing import Attribute, Span, SpanKind

_KINDS = {
    SpanKind.SERVER: trace.SpanKind.SERVER,
    SpanKind.CLIENT: trace.SpanKind.CLIENT,
    SpanKind.INTERNAL: trace.SpanKind.INTERNAL,
}


class OtelSpan:
    """A span of OpenTelemetry."""

    def __init__(self, span: trace.Span) -> None:
        self.span = span
        context = span.get_span_context()
        self.place: TraceParent | None = TraceParent(
            trace_id=trace.format_trace_id(context.trace_id),
            span_id=trace.format_span_id(context.span_id),
            sampled=context.trace_flags.sampled,
        )

    def end(self, *, error: str | None = None, attributes: Mapping[str, Attribute] | None = None) -> None:
        if not self.span.is_recording():  # not sampled, or ended before
            return
        if attributes:
            self.span.set_attributes(attributes)
        if error is not None:
            self.span.set_attribute("error.type", error)
            self.span.set_status(trace.Status(trace.StatusCode.ERROR, error))
        self.span.end()


class OtelTracing:
    """Spans in batches to the collector that OTEL_EXPORTER_OTLP_ENDPOINT names, from a thread of their own.

    A provider of its own, not the global one: two servers in one process do not mix.

    Args:
        service: Name of the process in traces; None: as the environment says.
    """

    def __init__(self, service: str | None) -> None:
        names = {SERVICE_VERSION: __version__} | ({SERVICE_NAME: service} if service is not None else {})
        self._provider = TracerProvider(resource=Resource.create(names), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("eif", __version__)

    def start(
        self,
        name: str,
        *,
        parent: TraceParent | None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Mapping[str, Attribute] | None = None,
    ) -> Span:
        context = _remote(parent) if parent is not None else otel_context.Context()
        return OtelSpan(self._tracer.start_span(name, context=context, kind=_KINDS[kind], attributes=attributes))

    @contextmanager
    def current(self, span: Span) -> Iterator[None]:
        if not isinstance(span, OtelSpan):
            yield
            return
        with trace.use_span(span.span, end_on_exit=False, record_exception=False, set_status_on_exception=False):
            yield

    def close(self, *, timeout_s: float) -> None:
        # In a thread: the SDK's own time-outs are not kept when the collector is away.
        closing = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        closing.start()
        closing.join(timeout_s)


def _remote(parent: TraceParent) -> otel_context.Context:
    flags = trace.TraceFlags(trace.TraceFlags.SAMPLED if parent.sampled else trace.TraceFlags.DEFAULT)
    ids = trace.SpanContext(int(parent.trace_id, 16), int(parent.span_id, 16), is_remote=True, trace_flags=flags)
    return trace.set_span_in_context(trace.NonRecordingSpan(ids), otel_context.Context())
