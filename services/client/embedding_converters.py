"""Between the messages of eif.embedding.v1 and what the client takes and hands out."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import grpc
from eif.embedding.v1 import embedding_service_pb2, resources_pb2

from services.client.embeddings import (
    BuildError,
    ByImage,
    BySample,
    ByVector,
    EmbeddingServerInfo,
    Index,
    IndexState,
    Model,
    Neighbor,
    SearchQuery,
    Space,
    UnreadableSample,
)
from services.client.errors import BuildFailed, code_of, info_of
from services.client.job_converters import time_of

SPACES = {Space.EMBEDDING: resources_pb2.SPACE_EMBEDDING, Space.PENULTIMATE: resources_pb2.SPACE_PENULTIMATE}
_STATES = {
    resources_pb2.Index.STATE_BUILDING: IndexState.BUILDING,
    resources_pb2.Index.STATE_READY: IndexState.READY,
    resources_pb2.Index.STATE_FAILED: IndexState.FAILED,
}


def model_of(message: resources_pb2.Model) -> Model:
    """A model."""
    return Model(
        name=message.name,
        uri=message.uri,
        sha256=message.sha256,
        embedding_dim=message.embedding_dim,
        feature_dim=message.feature_dim,
        weights_sha256=message.weights_sha256,
        execution_provider=message.execution_provider,
        create_time=time_of(message.create_time) if message.HasField("create_time") else None,
    )


def index_of(message: resources_pb2.Index) -> Index:
    """An index."""
    return Index(
        name=message.name,
        model=message.model,
        manifest_uri=message.manifest_uri,
        space=Space.PENULTIMATE if message.space == resources_pb2.SPACE_PENULTIMATE else Space.EMBEDDING,
        state=_STATES.get(message.state, IndexState.UNKNOWN),
        samples_done=message.samples_done,
        samples_total=message.samples_total,
        samples_quarantined=message.samples_quarantined,
        quarantined=tuple(map(_unreadable, message.quarantined)),
        dim=message.dim,
        error=_error(message),
        stored_uri=message.stored_uri,
        create_time=_time(message, "create_time"),
        update_time=_time(message, "update_time"),
    )


def server_info_of(message: embedding_service_pb2.ServerInfo) -> EmbeddingServerInfo:
    """What the server is."""
    return EmbeddingServerInfo(
        version=message.version,
        execution_provider=message.execution_provider,
        available_providers=tuple(message.available_providers),
        uri_schemes=tuple(message.uri_schemes),
        max_images_per_request=message.max_images_per_request,
        max_image_bytes=message.max_image_bytes,
        max_image_pixels=message.max_image_pixels,
        max_queries_per_request=message.max_queries_per_request,
        max_neighbors=message.max_neighbors,
    )


def image_input(image: bytes | str) -> resources_pb2.ImageInput:
    """Encoded bytes, or a URI."""
    return resources_pb2.ImageInput(uri=image) if isinstance(image, str) else resources_pb2.ImageInput(content=image)


def search_query(query: SearchQuery) -> embedding_service_pb2.SearchQuery:
    """A query."""
    match query:
        case ByVector():
            return embedding_service_pb2.SearchQuery(vector=resources_pb2.Vector(values=query.values))
        case ByImage():
            return embedding_service_pb2.SearchQuery(image=image_input(query.image))
        case BySample():
            return embedding_service_pb2.SearchQuery(sample_id=query.sample_id)


def neighbors_of(message: embedding_service_pb2.Neighbors) -> tuple[Neighbor, ...]:
    """The neighbours of one query, nearest first."""
    labels: Iterable[str] = message.labels or [""] * len(message.sample_ids)
    columns = zip(message.sample_ids, message.distances, labels, strict=True)
    return tuple(
        Neighbor(sample_id=sample_id, distance=distance, label=label) for sample_id, distance, label in columns
    )


def query_bytes(query: SearchQuery) -> int:
    """About how much of a request a query takes."""
    match query:
        case ByVector():
            return 4 * len(query.values)
        case ByImage():
            return len(query.image)
        case BySample():
            return len(query.sample_id)


def raise_unless_ready(index: Index) -> Index:
    """The index, when it can be searched. Raises BuildFailed when its build failed."""
    if index.state is IndexState.FAILED:
        error = index.error or BuildError(code="UNKNOWN", reason="INTERNAL", message="the build failed", metadata={})
        raise BuildFailed(grpc.StatusCode[error.code], error.reason, error.message, error.metadata, index)
    return index


def _unreadable(message: resources_pb2.Quarantined) -> UnreadableSample:
    return UnreadableSample(
        sample_id=message.sample_id, uri=message.uri, reason=message.reason, message=message.message
    )


def _error(message: resources_pb2.Index) -> BuildError | None:
    if not message.HasField("error"):
        return None
    reason, metadata = info_of(message.error)
    return BuildError(code=code_of(message.error).name, reason=reason, message=message.error.message, metadata=metadata)


def _time(message: resources_pb2.Index, field: str) -> datetime | None:
    return time_of(getattr(message, field)) if message.HasField(field) else None  # type: ignore[arg-type]  # a field name
