from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from eif.embedding.v1 import embedding_service_pb2, resources_pb2

from services.client.embedding import EmbeddingClient
from services.client.embeddings import ByImage, BySample, ByVector, IndexState, Neighbor, SearchQuery, Space
from services.client.errors import BuildFailed, DeadlineExceeded, NotFound
from services.client.reconnect import Reconnect
from tests.scripted_server import Context, ScriptedServer, refuse, status

SERVICE = embedding_service_pb2.DESCRIPTOR.services_by_name["EmbeddingService"]
FAST = Reconnect(first_delay=0.01, max_delay=0.05, patience=5.0)
NAME = "projects/default/indexes/i1"
Index = resources_pb2.Index


def index(state: Index.State.ValueType, *, done: int = 0) -> resources_pb2.Index:
    made = Index(
        name=NAME, state=state, samples_done=done, samples_total=10, dim=4, space=resources_pb2.SPACE_PENULTIMATE
    )
    made.update_time.FromSeconds(1_700_000_000)
    if state == Index.STATE_FAILED:
        made.error.CopyFrom(
            status(grpc.StatusCode.FAILED_PRECONDITION, "TOO_MANY_QUARANTINED", "3 of 10", limit="0.01")
        )
        made.quarantined.add(sample_id="a", uri="s3://b/a", reason="IMAGE_INVALID", message="cut")
    return made


class Server(ScriptedServer):
    """Embeds an image as its length and its place in the request; at most 3 images or 2 queries at once."""

    def __init__(self) -> None:
        self.attempts: Iterator[list[resources_pb2.Index]] = iter([])
        super().__init__(
            SERVICE,
            {
                "GetServerInfo": self._info,
                "EmbedImages": self._embed,
                "SearchNeighbors": self._search,
                "CreateModel": self._create_model,
                "CreateIndex": self._create_index,
                "WatchIndex": self._watch,
                "ListModels": self._models,
            },
        )

    async def _info(self, _request: Any, _context: Context) -> embedding_service_pb2.ServerInfo:
        return embedding_service_pb2.ServerInfo(max_images_per_request=3, max_queries_per_request=2)

    async def _embed(self, request: Any, _context: Context) -> embedding_service_pb2.EmbedImagesResponse:
        vectors = [
            resources_pb2.Vector(values=[len(image.content or image.uri), place])
            for place, image in enumerate(request.images)
        ]
        return embedding_service_pb2.EmbedImagesResponse(embeddings=vectors)

    async def _search(self, request: Any, _context: Context) -> embedding_service_pb2.SearchNeighborsResponse:
        results = [
            embedding_service_pb2.Neighbors(sample_ids=[query.WhichOneof("query")], distances=[0.5], labels=["x"])
            for query in request.queries
        ]
        return embedding_service_pb2.SearchNeighborsResponse(results=results)

    async def _create_model(self, request: Any, _context: Context) -> resources_pb2.Model:
        return resources_pb2.Model(name=f"{request.parent}/models/{request.model_id}", uri=request.model.uri)

    async def _create_index(self, request: Any, _context: Context) -> resources_pb2.Index:
        made = resources_pb2.Index()
        made.CopyFrom(request.index)
        made.name = f"{request.parent}/indexes/{request.index_id}"
        made.state = Index.STATE_BUILDING
        return made

    async def _watch(self, request: Any, context: Context) -> None:
        if request.name != NAME:
            await refuse(context, grpc.StatusCode.NOT_FOUND, "INDEX_NOT_FOUND", "no such index")
        for seen in next(self.attempts):
            await context.write(embedding_service_pb2.IndexEvent(index=seen))
        await context.abort(grpc.StatusCode.UNAVAILABLE, "going away")

    async def _models(self, request: Any, _context: Context) -> embedding_service_pb2.ListModelsResponse:
        page = int(request.page_token or 0)
        return embedding_service_pb2.ListModelsResponse(
            models=[resources_pb2.Model(name=f"projects/default/models/m{page}")],
            next_page_token=str(page + 1) if page < 2 else "",
        )


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[EmbeddingClient]:
    with EmbeddingClient(server.target, reconnect=FAST) as connected:
        yield connected


def test_images_go_in_as_many_requests_as_it_takes(server: Server, client: EmbeddingClient) -> None:
    images: list[bytes | str] = [b"x" * 10, "s3://b/k", b"x" * 3_000_000, b"x" * 2_000_000, b"x"]
    vectors = client.embed("m", images, space=Space.PENULTIMATE)
    assert vectors == [[10, 0], [8, 1], [3_000_000, 2], [2_000_000, 0], [1, 1]]
    first, second = server.requests("EmbedImages")
    assert (first.model, first.space) == ("projects/default/models/m", resources_pb2.SPACE_PENULTIMATE)
    assert [image.WhichOneof("input") for image in first.images] == ["content", "uri", "content"]
    assert len(second.images) == 2
    assert len(server.requests("GetServerInfo")) == 1


def test_every_kind_of_query(server: Server, client: EmbeddingClient) -> None:
    queries: list[SearchQuery] = [
        ByVector(values=(0.5, 1.0)),
        ByImage(image=b"x"),
        ByImage(image="s3://b/k"),
        BySample(sample_id="a"),
    ]
    answers = client.search(NAME, queries, num_neighbors=7)
    assert [answer[0].sample_id for answer in answers] == ["vector", "image", "image", "sample_id"]
    assert answers[0] == (Neighbor(sample_id="vector", distance=0.5, label="x"),)
    first, second = server.requests("SearchNeighbors")
    assert (first.index, first.num_neighbors, list(first.queries[0].vector.values)) == (NAME, 7, [0.5, 1.0])
    assert (second.queries[0].image.uri, second.queries[1].sample_id) == ("s3://b/k", "a")


def test_models_and_indexes_are_created_with_a_request_id(server: Server, client: EmbeddingClient) -> None:
    model = client.load_model("m", uri="s3://b/onnx", sha256="ab")
    assert (model.name, model.model_id) == ("projects/default/models/m", "m")
    made = client.create_index("i", model=model, manifest="s3://b/m.csv", max_quarantined_fraction=0.0)
    assert (made.index_id, made.state, made.model) == ("i", IndexState.BUILDING, model.name)
    for method in ("CreateModel", "CreateIndex"):
        assert uuid.UUID(server.requests(method)[0].request_id).version == 4
    assert server.requests("CreateIndex")[0].index.HasField("max_quarantined_fraction")


def test_models_are_paged(client: EmbeddingClient) -> None:
    assert [model.model_id for model in client.list_models()] == ["m0", "m1", "m2"]


def test_a_lost_watch_is_opened_again(server: Server, client: EmbeddingClient) -> None:
    building, further = index(Index.STATE_BUILDING, done=1), index(Index.STATE_BUILDING, done=5)
    server.attempts = iter([[building], [], [building, further], [index(Index.STATE_READY, done=10)]])
    assert [seen.samples_done for seen in client.watch_index("i1")] == [1, 5, 10]
    server.attempts = iter([[index(Index.STATE_READY, done=10)]])
    ready = client.wait_index("i1")
    assert (ready.state, ready.dim, ready.space) == (IndexState.READY, 4, Space.PENULTIMATE)
    assert ready.update_time is not None
    assert ready.create_time is None


def test_a_build_that_failed(server: Server, client: EmbeddingClient) -> None:
    server.attempts = iter([[index(Index.STATE_FAILED)]])
    with pytest.raises(BuildFailed, match="TOO_MANY_QUARANTINED: 3 of 10") as caught:
        client.wait_index("i1")
    assert caught.value.code is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.metadata == {"limit": "0.01"}
    assert caught.value.index.quarantined[0].reason == "IMAGE_INVALID"


def test_a_wait_that_is_over(server: Server, client: EmbeddingClient) -> None:
    server.attempts = iter([[index(Index.STATE_BUILDING)]] * 1000)
    with pytest.raises(DeadlineExceeded, match=r"i1 has not ended after 0.2 s; it goes on") as caught:
        client.wait_index("i1", timeout=0.2)
    assert caught.value.reason == "WAIT_TIMEOUT"
    assert server.wait_until_idle()


def test_an_index_that_is_not_there(client: EmbeddingClient) -> None:
    with pytest.raises(NotFound):
        client.wait_index("nope")
