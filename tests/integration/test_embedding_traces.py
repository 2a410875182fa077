"""Spans of the embedding service, as a real collector sees them."""

from __future__ import annotations

from pathlib import Path

import pytest
from eif.embedding.v1 import embedding_service_pb2 as pb
from eif.embedding.v1 import resources_pb2

from tests.embedding_server import PARENT, running_embedding
from tests.job_world import picture
from tests.onnx_bundles import write_bundle
from tests.otlp import running_collector
from tests.stores import local_place

SERVICE = "eif.embedding.v1.EmbeddingService"
TRACE, SPAN = "a" * 32, "b" * 16


def test_calls_and_what_they_ask_of_the_store_are_in_the_trace_of_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = local_place(tmp_path / "objects")
    write_bundle(tmp_path / "objects" / "onnx")
    (tmp_path / "objects" / "image.png").write_bytes(picture(0, 0))
    model = resources_pb2.Model(uri=place.uri("onnx"))
    image = resources_pb2.ImageInput(uri=place.uri("image.png"))
    metadata = (("traceparent", f"00-{TRACE}-{SPAN}-01"),)
    with running_collector() as collector:
        for name, value in collector.environ.items():
            monkeypatch.setenv(name, value)
        with running_embedding(place, tmp_path / "state") as server:
            create = pb.CreateModelRequest(parent=PARENT, model_id="m", model=model)
            server.stub.CreateModel(create, timeout=60, metadata=metadata)
            embed = pb.EmbedImagesRequest(model=f"{PARENT}/models/m", images=[image])
            server.stub.EmbedImages(embed, timeout=30, metadata=metadata)
            assert server.terminate() == 0
            created = collector.wait_for(lambda span: span.name == f"{SERVICE}/CreateModel")
            embedded = collector.wait_for(lambda span: span.name == f"{SERVICE}/EmbedImages")
            logged = [line for line in server.log_lines() if line.get("event") == "call"]
    spans = [span for span in collector.spans if span.name.startswith(SERVICE)]
    assert {(span.service, span.trace_id, span.parent_id) for span in spans} == {("eif-embedding", TRACE, SPAN)}
    below = [span for span in collector.spans if span.parent_id == created.span_id]
    assert {"storage read", "storage download"} & {span.name for span in below}
    (read,) = [span for span in collector.spans if span.parent_id == embedded.span_id]
    assert (read.name, read.attributes["eif.storage.bytes"]) == ("storage read", len(picture(0, 0)))
    assert {line["trace_id"] for line in logged} == {TRACE}
