"""Between protobuf and the service's own types; nothing else here imports protobuf messages, save the servicer."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from eif.embedding.v1 import embedding_service_pb2 as service_pb2
from eif.embedding.v1 import resources_pb2
from google.protobuf import timestamp_pb2

from eif_engine.config import NeighborSpace
from eif_engine.errors import EifError
from services.common.names import invalid, shown
from services.common.rpc_errors import status_of
from services.embedding.images import ImageSource
from services.embedding.names import INDEXES, MODELS, Name, child_name, parse_name
from services.embedding.records import Failure, IndexRecord, IndexSpec, IndexState, ModelRecord, ModelSpec
from services.embedding.search import Query, SampleQuery, VectorQuery

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from services.embedding.knn import Neighbors
    from services.embedding.vectors import Float32

DOMAIN = "embedding.eif.dev"
DEFAULT_NEIGHBORS = 10
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SPACES = {
    resources_pb2.SPACE_UNSPECIFIED: NeighborSpace.EMBEDDING,
    resources_pb2.SPACE_EMBEDDING: NeighborSpace.EMBEDDING,
    resources_pb2.SPACE_PENULTIMATE: NeighborSpace.PENULTIMATE,
}
_PB_SPACES = {
    NeighborSpace.EMBEDDING: resources_pb2.SPACE_EMBEDDING,
    NeighborSpace.PENULTIMATE: resources_pb2.SPACE_PENULTIMATE,
}
_PB_STATES = {
    IndexState.BUILDING: resources_pb2.Index.STATE_BUILDING,
    IndexState.READY: resources_pb2.Index.STATE_READY,
    IndexState.FAILED: resources_pb2.Index.STATE_FAILED,
}


def to_model_spec(request: service_pb2.CreateModelRequest) -> tuple[ModelSpec, Name]:
    name = child_name(request.parent, MODELS, request.model_id, id_field="model_id")
    uri = _required(request.model.uri, "model.uri", "the onnx.json of a bundle, or its folder")
    return ModelSpec(name=str(name), uri=uri, sha256=_to_sha256(request.model.sha256, "model.sha256")), name


def to_index_spec(request: service_pb2.CreateIndexRequest) -> tuple[IndexSpec, Name]:
    name, index = child_name(request.parent, INDEXES, request.index_id, id_field="index_id"), request.index
    fraction = index.max_quarantined_fraction if index.HasField("max_quarantined_fraction") else None
    if fraction is not None and not 0 <= fraction <= 1:
        raise invalid("index.max_quarantined_fraction", f"{fraction:g} is not within 0 and 1")
    spec = IndexSpec(
        name=str(name),
        model=str(parse_name(index.model, MODELS, field="index.model")),
        manifest_uri=_required(index.manifest_uri, "index.manifest_uri", "the manifest of the samples"),
        manifest_sha256=_to_sha256(index.manifest_sha256, "index.manifest_sha256"),
        space=to_space(index.space, "index.space"),
        max_quarantined_fraction=fraction,
    )
    return spec, name


def to_space(space: resources_pb2.Space.ValueType, field: str) -> NeighborSpace:
    if space not in _SPACES:
        raise invalid(field, f"{space} is not a space: use SPACE_EMBEDDING or SPACE_PENULTIMATE")
    return _SPACES[space]


def to_images(request: service_pb2.EmbedImagesRequest, *, most: int) -> list[ImageSource]:
    _check_count(len(request.images), "images", most)
    return [_to_image(image, f"images[{at}]") for at, image in enumerate(request.images)]


def to_queries(request: service_pb2.SearchNeighborsRequest, *, most: int) -> list[Query]:
    _check_count(len(request.queries), "queries", most)
    return [_to_query(query, f"queries[{at}]") for at, query in enumerate(request.queries)]


def to_num_neighbors(request: service_pb2.SearchNeighborsRequest, *, most: int) -> int:
    if not 0 <= request.num_neighbors <= most:
        raise invalid("num_neighbors", f"{request.num_neighbors} is not within 0 (the default) and {most}")
    return request.num_neighbors or min(DEFAULT_NEIGHBORS, most)


def from_model(record: ModelRecord, *, provider: str) -> resources_pb2.Model:
    return resources_pb2.Model(
        name=record.name,
        uri=record.spec.uri,
        sha256=record.sha256,
        embedding_dim=record.embedding_dim,
        feature_dim=record.feature_dim,
        weights_sha256=record.weights_sha256,
        execution_provider=provider,
        create_time=_from_time(record.create_time),
    )


def from_index(record: IndexRecord) -> resources_pb2.Index:
    spec = record.spec
    return resources_pb2.Index(
        name=record.name,
        model=spec.model,
        manifest_uri=spec.manifest_uri,
        manifest_sha256=spec.manifest_sha256 or "",
        space=_PB_SPACES[spec.space],
        max_quarantined_fraction=spec.max_quarantined_fraction,
        state=_PB_STATES[record.state],
        samples_done=record.samples_done,
        samples_total=record.samples_total,
        samples_quarantined=record.samples_quarantined,
        quarantined=[resources_pb2.Quarantined(**one.model_dump()) for one in record.quarantined],
        dim=record.dim,
        error=status_of(_from_failure(record.failure), DOMAIN) if record.failure else None,
        stored_uri=record.stored_uri or "",
        create_time=_from_time(record.create_time),
        update_time=_from_time(record.update_time),
    )


def from_vectors(vectors_BD: Float32) -> service_pb2.EmbedImagesResponse:
    return service_pb2.EmbedImagesResponse(
        embeddings=[resources_pb2.Vector(values=vector_D) for vector_D in vectors_BD.tolist()]
    )


def from_neighbors(answers: Sequence[Neighbors]) -> service_pb2.SearchNeighborsResponse:
    return service_pb2.SearchNeighborsResponse(
        results=[
            service_pb2.Neighbors(sample_ids=one.sample_ids, distances=one.distances.tolist(), labels=one.labels)
            for one in answers
        ]
    )


def _to_image(image: resources_pb2.ImageInput, field: str) -> ImageSource:
    match image.WhichOneof("input"):
        case "content":
            return ImageSource(field=field, content=image.content)
        case "uri":
            return ImageSource(field=field, uri=_required(image.uri, f"{field}.uri", "the URI of an image"))
        case _:
            raise invalid(field, "it has neither content nor uri")


def _to_query(query: service_pb2.SearchQuery, field: str) -> Query:
    match query.WhichOneof("query"):
        case "vector":
            return VectorQuery(field=field, values=tuple(query.vector.values))
        case "image":
            return _to_image(query.image, f"{field}.image")
        case "sample_id":
            return SampleQuery(field=field, sample_id=_required(query.sample_id, f"{field}.sample_id", "a sample id"))
        case _:
            raise invalid(field, "it has none of vector, image and sample_id")


def _to_sha256(text: str, field: str) -> str | None:
    if not text:
        return None
    if not _SHA256.fullmatch(text.lower()):
        raise invalid(field, f"{shown(text)} is not a sha256: 64 hexadecimal digits")
    return text.lower()


def _required(text: str, field: str, what: str) -> str:
    if not text:
        raise invalid(field, f"it is required: {what}")
    return text


def _check_count(count: int, field: str, most: int) -> None:
    if not 1 <= count <= most:
        raise invalid(field, f"there are {count}; send 1 to {most} in one request")


def _from_failure(failure: Failure) -> EifError:
    error = EifError(failure.message, **failure.metadata)
    error.reason = failure.reason
    return error


def _from_time(time: datetime) -> timestamp_pb2.Timestamp:
    stamp = timestamp_pb2.Timestamp()
    stamp.FromDatetime(time)
    return stamp
