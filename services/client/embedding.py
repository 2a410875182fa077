"""The client of the embedding service.

with EmbeddingClient("127.0.0.1:50052") as client:
    model = client.load_model("products", uri="s3://b/onnx")
    vectors = client.embed(model, [Path("shoe.jpg").read_bytes(), "s3://b/images/bag.jpg"])
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

from eif.embedding.v1 import embedding_service_pb2, embedding_service_pb2_grpc, resources_pb2

from services.client import names
from services.client.batching import batches
from services.client.connection import Connection
from services.client.credentials import Credentials
from services.client.embedding_converters import (
    SPACES,
    image_input,
    index_of,
    model_of,
    neighbors_of,
    query_bytes,
    raise_unless_ready,
    search_query,
    server_info_of,
)
from services.client.embeddings import (
    EmbeddingServerInfo,
    Index,
    Model,
    Neighbor,
    SearchQuery,
    Space,
)
from services.client.reconnect import Reconnect
from services.client.streams import Stream
from services.client.watching import last_of, watch

DEFAULT_TARGET = "127.0.0.1:50052"
_MAX_BYTES_PER_REQUEST = 4 * 2**20
_LOAD_TIMEOUT = 300.0
_RETRIED = (
    # Delete is not among them: its second try would find nothing and look like a failure.
    "GetServerInfo",
    "CreateModel",
    "GetModel",
    "ListModels",
    "EmbedImages",
    "CreateIndex",
    "GetIndex",
    "ListIndexes",
    "SearchNeighbors",
)


class EmbeddingClient:
    """Loads models, embeds images, builds indexes and searches them. Thread-safe. Close it, or use it in a `with`.

    Every method raises EifRpcError (services/client/errors.py). Models and indexes are given as the object, as their
    name or as their id.

    Args:
        target: `host:port` of the service.
        project: Project of what is created, listed, or named by id only.
        timeout: Seconds until a call that is not a stream is given up; loading a model may take longer.
        reconnect: How patient `watch_index` is when the connection is lost.
        credentials: TLS and who calls; plain text and nobody by default. `Credentials.from_environ(os.environ)` reads
            EIF_CLIENT_*. Those that cannot be used raise CredentialsError.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        project: str = "default",
        timeout: float = 60.0,
        reconnect: Reconnect | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        self.project = project
        self._reconnect = reconnect or Reconnect()
        self._connection = Connection(
            target,
            service="eif.embedding.v1.EmbeddingService",
            retried=_RETRIED,
            timeout=timeout,
            credentials=credentials,
        )
        self._stub = embedding_service_pb2_grpc.EmbeddingServiceStub(self._connection.channel)
        self._info: EmbeddingServerInfo | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; every call and stream of this client ends."""
        self._connection.close()

    def load_model(
        self,
        model_id: str,
        *,
        uri: str,
        sha256: str = "",
        request_id: str | None = None,
        timeout: float = _LOAD_TIMEOUT,
    ) -> Model:
        """Load the ONNX bundle at `uri` under a name; returns when the model answers.

        Args:
            model_id: Last segment of its name.
            uri: Its `onnx.json`, or the folder that holds it.
            sha256: What `onnx.json` must have, if given.
            request_id: A UUID that makes a repeated request the same model; a new one when None.
            timeout: Seconds until the call is given up.
        """
        request = embedding_service_pb2.CreateModelRequest(
            parent=names.parent(self.project),
            model_id=model_id,
            model=resources_pb2.Model(uri=uri, sha256=sha256),
            request_id=request_id or str(uuid.uuid4()),
        )
        return model_of(self._connection.call(self._stub.CreateModel, request, timeout=timeout))

    def get_model(self, model: Model | str) -> Model:
        """A model."""
        request = embedding_service_pb2.GetModelRequest(name=self._model_name(model))
        return model_of(self._connection.call(self._stub.GetModel, request))

    def list_models(self) -> Iterator[Model]:
        """The models of the project, by name. Pages are fetched as needed."""
        request = embedding_service_pb2.ListModelsRequest(parent=names.parent(self.project))
        while True:
            page = self._connection.call(self._stub.ListModels, request)
            yield from map(model_of, page.models)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def delete_model(self, model: Model | str) -> None:
        """Unload a model that no index uses. The bundle in the object store stays."""
        request = embedding_service_pb2.DeleteModelRequest(name=self._model_name(model))
        self._connection.call(self._stub.DeleteModel, request)

    def embed(
        self, model: Model | str, images: Iterable[bytes | str], *, space: Space = Space.EMBEDDING
    ) -> list[list[float]]:
        """L2-normalised vectors of images (encoded bytes or URIs), in their order; in as many requests as it takes."""
        name = self._model_name(model)
        vectors: list[list[float]] = []
        max_images = self._limits().max_images_per_request
        for batch in batches(images, max_items=max_images, max_bytes=_MAX_BYTES_PER_REQUEST, bytes_of=len):
            request = embedding_service_pb2.EmbedImagesRequest(
                model=name, images=map(image_input, batch), space=SPACES[space]
            )
            reply = self._connection.call(self._stub.EmbedImages, request)
            vectors.extend(list(vector.values) for vector in reply.embeddings)
        return vectors

    def create_index(
        self,
        index_id: str,
        *,
        model: Model | str,
        manifest: str,
        manifest_sha256: str = "",
        space: Space = Space.EMBEDDING,
        max_quarantined_fraction: float | None = None,
        request_id: str | None = None,
    ) -> Index:
        """Start to build an index and return it at once; `wait_index` waits until it can be searched.

        Args:
            index_id: Last segment of its name.
            model: The model that embeds the samples.
            manifest: URI of the manifest of the samples.
            manifest_sha256: What the manifest must have, if given.
            space: The space of its vectors.
            max_quarantined_fraction: The build fails past this share of unreadable samples; None is the server's 0.01.
            request_id: A UUID that makes a repeated request the same index; a new one when None.
        """
        index = resources_pb2.Index(
            model=self._model_name(model),
            manifest_uri=manifest,
            manifest_sha256=manifest_sha256,
            space=SPACES[space],
            max_quarantined_fraction=max_quarantined_fraction,
        )
        request = embedding_service_pb2.CreateIndexRequest(
            parent=names.parent(self.project),
            index_id=index_id,
            index=index,
            request_id=request_id or str(uuid.uuid4()),
        )
        return index_of(self._connection.call(self._stub.CreateIndex, request))

    def get_index(self, index: Index | str) -> Index:
        """An index as it is now."""
        request = embedding_service_pb2.GetIndexRequest(name=self._index_name(index))
        return index_of(self._connection.call(self._stub.GetIndex, request))

    def list_indexes(self) -> Iterator[Index]:
        """The indexes of the project, by name. Pages are fetched as needed."""
        request = embedding_service_pb2.ListIndexesRequest(parent=names.parent(self.project))
        while True:
            page = self._connection.call(self._stub.ListIndexes, request)
            yield from map(index_of, page.indexes)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def watch_index(self, index: Index | str, *, timeout: float | None = None) -> Stream[Index]:
        """The index now and at every change, the last time READY or FAILED; outlives lost connections.

        With `timeout` (seconds), raises DeadlineExceeded when the build has not ended by then.
        """
        request = embedding_service_pb2.WatchIndexRequest(name=self._index_name(index))
        return watch(
            lambda call_timeout: self._stub.WatchIndex(request, timeout=call_timeout),
            name=request.name,
            resource_of=lambda event: index_of(event.index),
            is_terminal=lambda seen: seen.state.is_terminal,
            connection=self._connection,
            reconnect=self._reconnect,
            timeout=timeout,
        )

    def wait_index(self, index: Index | str, *, timeout: float | None = None) -> Index:
        """The index once it can be searched. Raises BuildFailed, or DeadlineExceeded after `timeout` seconds."""
        return raise_unless_ready(last_of(self.watch_index(index, timeout=timeout)) or self.get_index(index))

    def delete_index(self, index: Index | str) -> None:
        """Delete an index and what it stored; its build is stopped first."""
        request = embedding_service_pb2.DeleteIndexRequest(name=self._index_name(index))
        self._connection.call(self._stub.DeleteIndex, request)

    def search(
        self, index: Index | str, queries: Iterable[SearchQuery], *, num_neighbors: int = 10
    ) -> list[tuple[Neighbor, ...]]:
        """The nearest entries for each query, nearest first; in as many requests as it takes."""
        name = self._index_name(index)
        answers: list[tuple[Neighbor, ...]] = []
        max_queries = self._limits().max_queries_per_request
        for batch in batches(queries, max_items=max_queries, max_bytes=_MAX_BYTES_PER_REQUEST, bytes_of=query_bytes):
            request = embedding_service_pb2.SearchNeighborsRequest(
                index=name, queries=map(search_query, batch), num_neighbors=num_neighbors
            )
            reply = self._connection.call(self._stub.SearchNeighbors, request)
            answers.extend(map(neighbors_of, reply.results))
        return answers

    def server_info(self) -> EmbeddingServerInfo:
        """What the server is, what it runs on and what its limits are."""
        return server_info_of(
            self._connection.call(self._stub.GetServerInfo, embedding_service_pb2.GetServerInfoRequest())
        )

    def _limits(self) -> EmbeddingServerInfo:
        self._info = self._info or self.server_info()
        return self._info

    def _model_name(self, model: Model | str) -> str:
        return model.name if isinstance(model, Model) else names.model_name(model, self.project)

    def _index_name(self, index: Index | str) -> str:
        return index.name if isinstance(index, Index) else names.index_name(index, self.project)
