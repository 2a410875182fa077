"""What each method of EmbeddingService needs of its caller."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eif.embedding.v1 import embedding_service_pb2 as service_pb2

from services.common.access.rules import NamedResource, NamedUri, Rule, Verb

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_SERVICE = service_pb2.DESCRIPTOR.services_by_name["EmbeddingService"].full_name


def _bundle(request: service_pb2.CreateModelRequest) -> Iterator[NamedUri]:
    yield NamedUri(field="model.uri", uri=request.model.uri)


def _embedded_by(request: service_pb2.CreateIndexRequest) -> Iterator[NamedResource]:
    yield NamedResource(field="index.model", name=request.index.model, verb=Verb.EMBED)


def _manifest(request: service_pb2.CreateIndexRequest) -> Iterator[NamedUri]:
    yield NamedUri(field="index.manifest_uri", uri=request.index.manifest_uri)


def _images(request: service_pb2.EmbedImagesRequest) -> Iterator[NamedUri]:
    for at, image in enumerate(request.images):
        if image.uri:
            yield NamedUri(field=f"images[{at}].uri", uri=image.uri)


def _queries(request: service_pb2.SearchNeighborsRequest) -> Iterator[NamedUri]:
    for at, query in enumerate(request.queries):
        if query.image.uri:
            yield NamedUri(field=f"queries[{at}].image.uri", uri=query.image.uri)


_RULES = {
    "GetServerInfo": Rule(verb=None),
    "CreateModel": Rule(verb=Verb.ADMIN, field="parent", uris=_bundle),
    "GetModel": Rule(verb=Verb.READ, field="name"),
    "ListModels": Rule(verb=Verb.READ, field="parent"),
    "DeleteModel": Rule(verb=Verb.ADMIN, field="name"),
    "EmbedImages": Rule(verb=Verb.EMBED, field="model", uris=_images),
    "CreateIndex": Rule(verb=Verb.ADMIN, field="parent", others=_embedded_by, uris=_manifest),
    "GetIndex": Rule(verb=Verb.READ, field="name"),
    "ListIndexes": Rule(verb=Verb.READ, field="parent"),
    "WatchIndex": Rule(verb=Verb.READ, field="name"),
    "DeleteIndex": Rule(verb=Verb.ADMIN, field="name"),
    "SearchNeighbors": Rule(verb=Verb.SEARCH, field="index", uris=_queries),
}

RULES: Mapping[str, Rule] = {f"/{_SERVICE}/{method}": rule for method, rule in _RULES.items()}
"""By full name of the method. A method that is not here is denied to everybody."""
