"""A collector of traces: a real OTLP server over gRPC that keeps what it is sent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from tests.loop_thread import LoopThread


@dataclass(frozen=True, kw_only=True)
class KeptSpan:
    """A span as it came over the wire; ids in hex."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    error: str | None
    attributes: dict[str, Any]


class Collector:
    """Keeps spans."""

    def __init__(self) -> None:
        self.address = ""
        self.spans: list[KeptSpan] = []

    async def Export(  # noqa: N802  the name of the RPC
        self, request: trace_service_pb2.ExportTraceServiceRequest, _context: Any
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        for resource in request.resource_spans:
            service = _values(resource.resource.attributes)["service.name"]
            self.spans += [_kept(service, span) for scope in resource.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    @property
    def environ(self) -> dict[str, str]:
        """What tells a process of this collector; spans are sent at once."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{self.address}",
            "OTEL_EXPORTER_OTLP_INSECURE": "true",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }

    def wait_for(self, what: Callable[[KeptSpan], bool], *, within_s: float = 60.0) -> KeptSpan:
        """The first span that fulfils a condition."""
        deadline = time.monotonic() + within_s
        while True:
            found = next(filter(what, self.spans), None)
            if found is not None:
                return found
            assert time.monotonic() < deadline, [(span.service, span.name) for span in self.spans]
            time.sleep(0.02)

    def named(self, name: str) -> list[KeptSpan]:
        """All spans of a name."""
        return [span for span in self.spans if span.name == name]


@contextmanager
def running_collector() -> Iterator[Collector]:
    """A collector on a free port."""
    collector = Collector()

    async def start() -> grpc.aio.Server:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]  # generated without types
        collector.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        return server

    with LoopThread() as loop:
        server = loop.run(start())
        yield collector
        loop.run(server.stop(None))


def _kept(service: str, span: Any) -> KeptSpan:
    failed = span.status.code == 2
    return KeptSpan(
        service=service,
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        kind=span.kind,
        error=span.status.message if failed else None,
        attributes=_values(span.attributes),
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
