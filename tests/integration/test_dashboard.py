"""Dashboard, alerts and manual against what real servers tell after real calls and jobs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
import yaml
from eif.embedding.v1 import embedding_service_pb2 as embedding_pb
from eif.embedding.v1 import resources_pb2
from eif.influence.v1 import influence_service_pb2 as service_pb2
from eif.influence.v1 import job_pb2

from tests.conftest import REPO
from tests.embedding_server import PARENT, running_embedding
from tests.influence_process import influence_process
from tests.job_world import JobWorld, picture
from tests.onnx_bundles import write_bundle
from tests.ops import Scrape, fetch, scrape
from tests.promql import parse
from tests.stores import local_place

OF_PROMETHEUS = {"instance", "job"}
"""Labels that Prometheus itself adds."""


@pytest.fixture(scope="module")
def influence(tmp_path_factory: pytest.TempPathFactory) -> Scrape:
    """An influence service that has run a real job and refused a call."""
    folder = tmp_path_factory.mktemp("influence")
    spec = JobWorld(folder / "world").rank_spec()
    assert spec.model is not None
    rank = job_pb2.RankSpec(
        model=job_pb2.ArtifactRef(uri=spec.model.uri),
        train_manifest=job_pb2.ArtifactRef(uri=spec.train_manifest.uri),
        test_manifest=job_pb2.ArtifactRef(uri=spec.test_manifest.uri),
    )
    broken = job_pb2.RankSpec()
    broken.CopyFrom(rank)
    broken.test_manifest.sha256 = "0" * 64
    with influence_process(folder, scripted=False, EIF_INFLUENCE_OPS_LISTEN="127.0.0.1:0") as server:
        job = server.ended(server.create(job_pb2.InfluenceJob(rank=rank)))
        assert job.state == job_pb2.JOB_STATE_SUCCEEDED, job.error
        assert server.ended(server.create(job_pb2.InfluenceJob(rank=broken))).state == job_pb2.JOB_STATE_FAILED
        nowhere = service_pb2.GetInfluenceJobRequest(name="projects/p/influenceJobs/x")
        with pytest.raises(grpc.RpcError, match="there is no job"):
            server.stub.GetInfluenceJob(nowhere, timeout=9)
        return scrape(server.ops_address)


@pytest.fixture(scope="module")
def embedding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scrape]:
    """An embedding service that has embedded images and searched for them."""
    folder = tmp_path_factory.mktemp("embedding")
    place = local_place(folder / "objects")
    write_bundle(folder / "objects" / "onnx")
    with running_embedding(place, folder / "state", ops_listen="127.0.0.1:0") as server:
        server.create_model(place.uri("onnx"))
        good, bad = [
            embedding_pb.EmbedImagesRequest(
                model=f"{PARENT}/models/m", images=[resources_pb2.ImageInput(content=content)]
            )
            for content in (picture(0, 0), b"no image")
        ]
        assert len(server.stub.EmbedImages(good, timeout=30).embeddings) == 1
        with pytest.raises(grpc.RpcError, match="images"):
            server.stub.EmbedImages(bad, timeout=30)
        assert fetch(server.ops_address, "/readyz").checks == {"started": "ok", "accepting": "ok", "state": "ok"}
        yield scrape(server.ops_address)


@pytest.fixture(scope="module")
def known(influence: Scrape, embedding: Scrape) -> dict[str, set[str]]:
    """Labels by the names of all series; of families that have no series yet, without."""
    labels: dict[str, set[str]] = {}
    for scraped in (influence, embedding):
        for family in scraped.families:
            labels.setdefault(family, set())
        for sample in scraped.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    return labels


def queries() -> list[tuple[str, str, str]]:
    """Every query of the dashboard and of the alerts: where it is, the query, and its legend."""
    board: dict[str, Any] = json.loads((REPO / "deploy" / "grafana" / "eif.json").read_text())
    found = [
        (panel["title"], target["expr"], target["legendFormat"])
        for panel in board["panels"]
        for target in panel.get("targets", ())
    ]
    found += [(each["name"], each["expr"], "") for each in board["annotations"]["list"] if "expr" in each]
    document = yaml.safe_load((REPO / "deploy" / "prometheus" / "rules.yaml").read_text())
    rules = [rule for group in document["groups"] for rule in group["rules"]]
    return found + [(rule["alert"], rule["expr"], "") for rule in rules]


@pytest.mark.parametrize(
    ("where", "query", "legend"), queries(), ids=[f"{each[0]}: {each[1][:40]}" for each in queries()]
)
def test_queries_ask_for_what_there_is(where: str, query: str, legend: str, known: dict[str, set[str]]) -> None:
    parsed = parse(query)
    names = parsed.selectors.keys() - {"up"}
    assert names or "up" in parsed.selectors, where
    assert names <= known.keys()
    for name in names:
        if known[name]:  # a family without series says nothing of its labels
            assert parsed.selectors[name] <= known[name] | OF_PROMETHEUS
    every = OF_PROMETHEUS.union(*(known[name] for name in names))
    if all(known[name] for name in names):
        assert parsed.groupings <= every | {"le"}
        assert set(re.findall(r"\{\{\s*(\w+)\s*\}\}", legend)) <= every


def documented() -> set[str]:
    """The metrics of the tables in the manual."""
    manual = (REPO / "docs" / "operations.md").read_text()
    section = manual[manual.index("## Metrics") : manual.index("## Traces")]
    return set(re.findall(r"^\| `([a-z_]+)` \|", section, re.MULTILINE))


def test_the_manual_has_every_metric_and_no_other(influence: Scrape, embedding: Scrape) -> None:
    assert documented() == influence.families | embedding.families


def test_every_metric_is_on_the_dashboard_or_only_of_the_process(influence: Scrape, embedding: Scrape) -> None:
    asked = {re.sub("_(bucket|sum|count)$", "", name) for _, query, _ in queries() for name in parse(query).selectors}
    assert influence.families | embedding.families <= asked | {"process_virtual_memory_bytes"}


def test_units_and_names_are_those_of_prometheus(influence: Scrape, embedding: Scrape) -> None:
    for scraped in (influence, embedding):
        for name in scraped.families:
            assert re.fullmatch(r"(eif|grpc_server|process)_[a-z_]+", name)
            assert not re.search(r"(millis|_ms(_|$)|_[km]b(_|$)|percent)", name)


def test_an_embedding_service_measures_its_steps(embedding: Scrape) -> None:
    names = ("batch_size", "queue_seconds", "infer_seconds", "decode_seconds", "search_seconds")
    counts = {name: embedding.value(f"eif_embed_{name}_count") for name in names}
    # The image that is none was looked at too, and nothing was searched.
    assert counts == {"batch_size": 1, "queue_seconds": 1, "infer_seconds": 1, "decode_seconds": 2, "search_seconds": 0}
    assert embedding.value("eif_embed_batch_size_sum") == 1
    assert embedding.value("eif_embed_queue_items", queue="images") == 0
    assert embedding.value("eif_embed_rejected_total", reason="IMAGE_INVALID") == 1
    assert embedding.value("eif_embed_rejected_total", reason="QUEUE_FULL") == 0
    assert embedding.value("eif_storage_requests_total", process="server", code="OK") > 0


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('sum by (a) (rate(x_total{b="c(d)", e!~"f"}[5m])) / clamp_min(y, 1e-9)', {"x_total": {"b", "e"}, "y": set()}),
        ("max(z) > 4 * 3600 and on () sum(increase(w[1h])) == 0", {"z": set(), "w": set()}),
    ],
)
def test_names_are_found_in_queries(text: str, names: dict[str, set[str]]) -> None:
    assert parse(text).selectors == names
