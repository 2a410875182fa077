"""Calls of the embedding service are in the trace of the job."""

from __future__ import annotations

from typing import Any

from eif.embedding.v1 import embedding_service_pb2 as pb
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from services.influence.worker.index_neighbors import IndexNeighbors
from tests.scripted_server import Context, ScriptedServer

SERVICE = pb.DESCRIPTOR.services_by_name["EmbeddingService"]


def test_a_search_within_a_stage_sends_its_place() -> None:
    seen: list[dict[str, Any]] = []

    async def info(_request: pb.GetServerInfoRequest, context: Context) -> pb.ServerInfo:
        seen.append(dict(context.invocation_metadata() or ()))
        return pb.ServerInfo(max_queries_per_request=3, max_neighbors=2)

    with ScriptedServer(SERVICE, {"GetServerInfo": info}) as server:
        target = server.target
        with IndexNeighbors(target, "i", timeout_s=5.0, patience_s=5.0, check=lambda: None) as index:
            index.limits()
            with TracerProvider(shutdown_on_exit=False).get_tracer("t").start_as_current_span("stage") as span:
                index.limits()
            context = span.get_span_context()
    assert "traceparent" not in seen[0]
    ids = f"{trace.format_trace_id(context.trace_id)}-{trace.format_span_id(context.span_id)}"
    assert seen[1]["traceparent"] == f"00-{ids}-01"
