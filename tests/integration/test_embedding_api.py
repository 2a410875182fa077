"""The embedding service as its callers see it: a process of its own, over gRPC, with a real exported model."""

from __future__ import annotations

import json
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import onnxruntime
import pytest
from eif.embedding.v1 import embedding_service_pb2 as pb
from eif.embedding.v1 import resources_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from eif_engine import __version__
from eif_engine.data.images import decode_image
from eif_engine.models.export import export_onnx
from eif_engine.models.onnx_bundle import read_onnx_bundle
from tests.bundles import small_bundle
from tests.embedding_server import PARENT, EmbeddingProcess, refusal_of, running_embedding
from tests.onnx_bundles import png
from tests.stores import local_place, s3_place

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from tests.stores import Place
    from tests.weed import Weed

SERVICE = "eif.embedding.v1.EmbeddingService"
MODEL = f"{PARENT}/models/m"
IMAGES = 40
LABELS = ("b", "a", "c")
EMBEDDING, PENULTIMATE = resources_pb2.SPACE_EMBEDDING, resources_pb2.SPACE_PENULTIMATE


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conv4 exported by the engine."""
    folder = tmp_path_factory.mktemp("exported")
    report = export_onnx(small_bundle(folder / "model"), folder / "onnx", [png(seed) for seed in range(4)])
    return report.onnx_json.parent


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, exported: Path) -> Place:
    return filled(local_place(tmp_path_factory.mktemp("store")), exported)


@pytest.fixture(scope="module")
def server(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddingProcess]:
    """One server for the tests that change nothing that others see, with the model `m` and the index `all`."""
    with running_embedding(place, tmp_path_factory.mktemp("server"), heartbeat_s="0.2") as running:
        running.create_model(place.uri("onnx"))
        assert running.built("all", manifest_uri=place.uri("all.jsonl")).state == resources_pb2.Index.STATE_READY
        yield running


def filled(place: Place, bundle: Path) -> Place:
    """A place with the bundle, images, and a manifest of them."""
    for path in bundle.iterdir():
        place.store.put(place.uri(f"onnx/{path.name}"), path)
    rows = []
    for seed in range(IMAGES):
        place.store.put(place.uri(f"images/{seed}.png"), png(seed))
        rows.append({"id": sample_id(seed), "uri": place.uri(f"images/{seed}.png"), "label": LABELS[seed % 3]})
    place.store.put(place.uri("all.jsonl"), "".join(f"{json.dumps(row)}\n" for row in rows).encode())
    return place


def sample_id(seed: int) -> str:
    return f"sample-{seed:02d}"


def contents(seeds: Sequence[int]) -> list[resources_pb2.ImageInput]:
    return [resources_pb2.ImageInput(content=png(seed)) for seed in seeds]


def embed(
    server: EmbeddingProcess,
    images: Sequence[resources_pb2.ImageInput],
    space: resources_pb2.Space.ValueType = EMBEDDING,
) -> NDArray[np.float32]:
    reply = server.stub.EmbedImages(pb.EmbedImagesRequest(model=MODEL, images=images, space=space), timeout=20)
    return np.array([vector.values for vector in reply.embeddings], dtype=np.float32)


def bare(exported: Path, seeds: Sequence[int], output: str) -> NDArray[np.float32]:
    """What ONNX Runtime gives for the same images, without the service; L2-normalised."""
    bundle = read_onnx_bundle(exported)
    session = onnxruntime.InferenceSession(str(exported / bundle.onnx.file), providers=["CPUExecutionProvider"])
    images = np.stack([bundle.preprocessing.apply(decode_image(png(seed))) for seed in seeds])
    rows = np.asarray(session.run([output], {bundle.input.name: images})[0], dtype=np.float64)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def search(server: EmbeddingProcess, *queries: pb.SearchQuery, index: str = "all", k: int = 0) -> list[pb.Neighbors]:
    request = pb.SearchNeighborsRequest(index=f"{PARENT}/indexes/{index}", queries=queries, num_neighbors=k)
    return list(server.stub.SearchNeighbors(request, timeout=20).results)


# --- what the server is


def test_says_what_it_is_and_what_its_limits_are(server: EmbeddingProcess) -> None:
    info = server.stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=5)
    assert info.version == __version__
    assert info.execution_provider in {"CPUExecutionProvider", "CUDAExecutionProvider"}
    assert "CPUExecutionProvider" in info.available_providers
    assert list(info.uri_schemes) == ["file"]
    limits = (info.max_images_per_request, info.max_image_bytes, info.max_image_pixels)
    assert limits == (32, 20 << 20, 50_000_000)
    assert (info.max_queries_per_request, info.max_neighbors) == (64, 1000)


def test_starts_fast_and_small_and_without_torch(server: EmbeddingProcess) -> None:
    libraries = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "onnxruntime" in libraries
    assert "faiss" in libraries
    assert "torch" not in libraries
    assert server.seconds_to_serving < 20, "a machine under load gets some slack; 1 s is usual"


def test_writes_nothing_but_json_lines(server: EmbeddingProcess) -> None:
    lines = server.log_lines()
    calls = [line for line in lines if line.get("event") == "call"]
    assert {"time", "level", "message", "method", "code", "duration_ms"} <= set(calls[0])
    assert "sample-01" not in server.log.read_text(), "logs do not tell what is in messages"


def test_health_and_reflection(server: EmbeddingProcess) -> None:
    health: Any = health_pb2_grpc.HealthStub(server.channel)
    for name in ("", SERVICE):
        reply = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
    request = health_pb2.HealthListRequest()  # type: ignore[attr-defined]  # not in the published stubs
    assert SERVICE in health.List(request, timeout=5).statuses
    watch = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE), timeout=5)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(server.channel)
    question: Any = reflection_pb2.ServerReflectionRequest
    (reply,) = stub.ServerReflectionInfo(iter([question(list_services="")]), timeout=5)
    assert SERVICE in {service.name for service in reply.list_services_response.service}


# --- models


def test_a_model_tells_its_sizes_and_where_it_comes_from(
    server: EmbeddingProcess, place: Place, exported: Path
) -> None:
    bundle = read_onnx_bundle(exported)
    model = server.stub.GetModel(pb.GetModelRequest(name=MODEL), timeout=5)
    assert (model.name, model.uri) == (MODEL, place.uri("onnx"))
    assert (model.embedding_dim, model.feature_dim) == (bundle.embedding_dim, bundle.feature_dim)
    assert model.weights_sha256 == bundle.weights_sha256
    assert len(model.sha256) == 64
    assert abs(model.create_time.seconds - time.time()) < 600
    assert model.execution_provider == server.stub.GetServerInfo(pb.GetServerInfoRequest()).execution_provider


def test_models_are_created_listed_in_pages_and_deleted(server: EmbeddingProcess, place: Place) -> None:
    digest = server.stub.GetModel(pb.GetModelRequest(name=MODEL)).sha256
    request_id = str(uuid.uuid4())
    for _ in range(2):
        created = server.create_model(place.uri("onnx/onnx.json"), "second", sha256=digest, request_id=request_id)
    first = server.stub.ListModels(pb.ListModelsRequest(parent=PARENT, page_size=1), timeout=5)
    rest = server.stub.ListModels(
        pb.ListModelsRequest(parent=PARENT, page_size=1, page_token=first.next_page_token), timeout=5
    )
    assert [model.name for model in (*first.models, *rest.models)] == [MODEL, created.name]
    assert rest.next_page_token == ""
    assert list(server.stub.ListModels(pb.ListModelsRequest(parent="projects/other")).models) == []
    server.stub.DeleteModel(pb.DeleteModelRequest(name=created.name), timeout=5)
    assert len(server.stub.ListModels(pb.ListModelsRequest(parent=PARENT), timeout=5).models) == 1


# --- embeddings


@pytest.mark.parametrize(("space", "output"), [(EMBEDDING, "embedding"), (PENULTIMATE, "features")])
def test_embeds_bytes_and_objects_as_onnx_runtime_does(
    server: EmbeddingProcess, place: Place, exported: Path, space: resources_pb2.Space.ValueType, output: str
) -> None:
    images = contents([5, 1])
    images.insert(1, resources_pb2.ImageInput(uri=place.uri("images/9.png")))
    vectors = embed(server, images, space)
    np.testing.assert_allclose(vectors, bare(exported, [5, 9, 1], output), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_no_space_means_embeddings(server: EmbeddingProcess) -> None:
    unset = embed(server, contents([0]), resources_pb2.SPACE_UNSPECIFIED)
    np.testing.assert_array_equal(unset, embed(server, contents([0])))


@pytest.mark.parametrize("space", [EMBEDDING, PENULTIMATE])
def test_a_vector_does_not_depend_on_who_shares_its_request(
    server: EmbeddingProcess, space: resources_pb2.Space.ValueType
) -> None:
    together = embed(server, contents(range(32)), space)
    alone = np.concatenate([embed(server, contents([seed]), space) for seed in range(0, 32, 5)])
    backwards = embed(server, contents(range(31, -1, -1)), space)[::-1]
    assert np.abs(alone - together[::5]).max() <= 1e-5
    assert np.abs(backwards - together).max() <= 1e-5


def test_requests_at_the_same_time_get_their_own_vectors(server: EmbeddingProcess) -> None:
    truth = embed(server, contents(range(20)))
    calls = [
        server.stub.EmbedImages.future(
            pb.EmbedImagesRequest(model=MODEL, images=contents(range(start % 17, start % 17 + 3))), timeout=30
        )
        for start in range(40)
    ]
    for start, call in enumerate(calls):
        vectors = np.array([one.values for one in call.result().embeddings])
        np.testing.assert_allclose(vectors, truth[start % 17 : start % 17 + 3], atol=1e-5)


# --- indexes and searches


def test_an_index_is_built_with_progress_and_stored(server: EmbeddingProcess, place: Place) -> None:
    created = server.create_index("watched", manifest_uri=place.uri("all.jsonl"), space=PENULTIMATE)
    assert created.state == resources_pb2.Index.STATE_BUILDING
    assert created.stored_uri == ""
    events = list(server.watch("watched"))
    last = events[-1].index
    assert last.state == resources_pb2.Index.STATE_READY
    assert (last.samples_done, last.samples_total, last.samples_quarantined) == (IMAGES, IMAGES, 0)
    assert (last.dim, last.space) == (8, PENULTIMATE)
    done = [event.index.samples_done for event in events]
    assert done == sorted(done)
    assert all(event.event_time.seconds for event in events)
    assert last == server.stub.GetIndex(pb.GetIndexRequest(name=last.name), timeout=5)
    manifest = json.loads(place.store.read(last.stored_uri, max_bytes=1 << 20))
    assert (manifest["vectors"]["rows"], manifest["dim"], manifest["space"]) == (IMAGES, 8, "penultimate")
    names = [index.name for index in server.stub.ListIndexes(pb.ListIndexesRequest(parent=PARENT)).indexes]
    assert names == sorted(names)
    assert last.name in names
    server.stub.DeleteIndex(pb.DeleteIndexRequest(name=last.name), timeout=20)
    assert list(place.store.list(last.stored_uri.rpartition("/")[0] + "/")) == []


def brute_force(vectors: NDArray[np.float32], seed: int, k: int) -> list[str]:
    distances = np.square(vectors.astype(np.float64) - vectors[seed]).sum(axis=1)
    order = sorted((distances[other], sample_id(other)) for other in range(len(vectors)) if other != seed)
    return [name for _, name in order[:k]]


def test_searches_by_vector_image_and_sample_in_one_request(
    server: EmbeddingProcess, place: Place, exported: Path
) -> None:
    vectors = bare(exported, range(IMAGES), "embedding")
    by_sample, by_vector, by_image, by_uri = search(
        server,
        pb.SearchQuery(sample_id=sample_id(4)),
        pb.SearchQuery(vector=resources_pb2.Vector(values=3 * vectors[4])),
        pb.SearchQuery(image=resources_pb2.ImageInput(content=png(4))),
        pb.SearchQuery(image=resources_pb2.ImageInput(uri=place.uri("images/4.png"))),
        k=6,
    )
    neighbours = brute_force(vectors, 4, 6)
    assert list(by_sample.sample_ids) == neighbours
    for answer in (by_vector, by_image, by_uri):
        assert list(answer.sample_ids) == [sample_id(4), *neighbours[:5]]
        assert answer.distances[0] == pytest.approx(0, abs=1e-10)
        np.testing.assert_allclose(answer.distances[1:], by_sample.distances[:5], atol=1e-5)
    assert list(by_sample.labels) == [LABELS[int(name[-2:]) % 3] for name in neighbours]
    assert list(by_sample.distances) == sorted(by_sample.distances)


def test_a_vector_that_was_given_out_finds_itself_at_exactly_nothing(server: EmbeddingProcess) -> None:
    vectors = embed(server, contents(range(8)))
    queries = [pb.SearchQuery(vector=resources_pb2.Vector(values=vector)) for vector in vectors]
    images = [pb.SearchQuery(image=image) for image in contents(range(8))]
    for seed, answer in enumerate(search(server, *images, k=1)):
        assert list(answer.sample_ids) == [sample_id(seed)]
    for by_vector, by_image in zip(search(server, *queries, k=3), search(server, *images, k=3), strict=True):
        assert by_vector == by_image


def test_the_number_of_neighbours(server: EmbeddingProcess) -> None:
    query = pb.SearchQuery(sample_id=sample_id(0))
    assert len(search(server, query)[0].sample_ids) == 10
    assert len(search(server, query, k=1000)[0].sample_ids) == IMAGES - 1
    assert len(search(server, pb.SearchQuery(vector=resources_pb2.Vector(values=[1] * 8)), k=1000)[0].labels) == IMAGES


def test_a_watch_beats_while_nothing_changes(server: EmbeddingProcess, place: Place) -> None:
    """The index waits behind another one, so that there is nothing to tell of it."""
    first, second = "long", "waiting"
    big = "".join(
        json.dumps({"id": f"{number:06d}", "uri": place.uri("images/1.png"), "label": "x"}) + "\n"
        for number in range(60_000)
    )
    place.store.put(place.uri("big.jsonl"), big.encode())
    server.create_index(first, manifest_uri=place.uri("big.jsonl"))
    server.create_index(second, manifest_uri=place.uri("all.jsonl"))  # waits behind the first
    watch = server.watch(second)
    beats = [next(watch).heartbeat for _ in range(3)]
    assert beats == [False, True, True]
    for name in (first, second):
        server.stub.DeleteIndex(pb.DeleteIndexRequest(name=f"{PARENT}/indexes/{name}"), timeout=30)
    with pytest.raises(grpc.RpcError) as gone:
        list(watch)
    assert refusal_of(gone.value).reason == "INDEX_NOT_FOUND"


# --- life and death


def test_everything_comes_back_after_a_kill(place: Place, tmp_path: Path, exported: Path) -> None:
    with running_embedding(place, tmp_path) as server:
        server.create_model(place.uri("onnx"))
        ready = server.built("ready", manifest_uri=place.uri("all.jsonl"))
        before = search(server, pb.SearchQuery(sample_id=sample_id(3)), index="ready")
        long = "".join(
            json.dumps({"id": f"{number:04d}", "uri": place.uri(f"images/{number % IMAGES}.png"), "label": "x"}) + "\n"
            for number in range(2000)
        )
        place.store.put(place.uri("long.jsonl"), long.encode())
        server.create_index("building", manifest_uri=place.uri("long.jsonl"))
        next(event for event in server.watch("building") if event.index.samples_done > 0)
        server.kill()
    with running_embedding(place, tmp_path) as server:
        assert server.stub.GetIndex(pb.GetIndexRequest(name=ready.name), timeout=5) == ready
        assert search(server, pb.SearchQuery(sample_id=sample_id(3)), index="ready") == before
        np.testing.assert_allclose(embed(server, contents([2])), bare(exported, [2], "embedding"), atol=1e-5)
        last = list(server.watch("building"))[-1].index
        assert (last.state, last.samples_done) == (resources_pb2.Index.STATE_READY, 2000)
        (answer,) = search(server, pb.SearchQuery(sample_id="0000"), index="building", k=49)
        assert list(answer.sample_ids) == [f"{number:04d}" for number in range(IMAGES, 2000, IMAGES)]
        assert set(answer.distances) == {0.0}
        assert server.terminate() == 0


def test_sigterm_lets_calls_end_and_tells_watches(place: Place, tmp_path: Path) -> None:
    with running_embedding(place, tmp_path) as server:
        server.create_model(place.uri("onnx"))
        long = "".join(
            json.dumps({"id": f"{number}", "uri": place.uri("images/1.png"), "label": "x"}) + "\n"
            for number in range(20_000)
        )
        place.store.put(place.uri("longer.jsonl"), long.encode())
        server.create_index("i", manifest_uri=place.uri("longer.jsonl"))
        watch = server.watch("i")
        next(watch)
        calls = [
            server.stub.EmbedImages.future(pb.EmbedImagesRequest(model=MODEL, images=contents(range(32))), timeout=30)
            for _ in range(4)
        ]
        threading.Timer(0.05, server.process.terminate).start()
        with pytest.raises(grpc.RpcError) as stopped:
            list(watch)
        assert refusal_of(stopped.value).reason == "SERVER_STOPPING"
        assert [len(call.result().embeddings) for call in calls] == [32] * 4
        assert server.process.wait(30) == 0
        assert not list((tmp_path / "server" / "scratch").glob("*/vectors.parquet"))


def test_a_second_server_on_the_same_state_refuses_to_start(place: Place, tmp_path: Path) -> None:
    with running_embedding(place, tmp_path):
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "server").symlink_to(tmp_path / "server")
        with (
            pytest.raises(AssertionError, match="in use by another server"),
            running_embedding(place, tmp_path / "other"),
        ):
            pytest.fail("two servers on one state")


def test_over_a_real_s3_server(weed: Weed, exported: Path, tmp_path: Path) -> None:
    place = filled(s3_place(weed), exported)
    with running_embedding(place, tmp_path) as server:
        server.create_model(place.uri("onnx"))
        images = [resources_pb2.ImageInput(uri=place.uri(f"images/{seed}.png")) for seed in range(4)]
        np.testing.assert_allclose(embed(server, images), bare(exported, range(4), "embedding"), atol=1e-5)
        index = server.built("all", manifest_uri=place.uri("all.jsonl"))
        assert (index.state, index.samples_done) == (resources_pb2.Index.STATE_READY, IMAGES)
        before = search(server, pb.SearchQuery(sample_id=sample_id(3)))
        server.kill()
    with running_embedding(place, tmp_path) as server:
        assert search(server, pb.SearchQuery(sample_id=sample_id(3))) == before
        server.stub.DeleteIndex(pb.DeleteIndexRequest(name=index.name), timeout=20)
        assert list(place.store.list(place.uri("indexes/"))) == []
        with pytest.raises(grpc.RpcError) as missing:
            embed(server, [resources_pb2.ImageInput(uri=place.uri("images/none.png"))])
        assert refusal_of(missing.value).reason == "OBJECT_NOT_FOUND"
