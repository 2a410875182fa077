"""The RPCs: convert, call, convert."""
# ruff: noqa: N802  methods have the names of the RPCs

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eif.embedding.v1 import embedding_service_pb2 as service_pb2
from eif.embedding.v1 import embedding_service_pb2_grpc, resources_pb2
from google.protobuf import empty_pb2

from eif_engine import __version__
from services.common.names import parse_parent, parse_request_id
from services.common.rpc_errors import translate_errors
from services.embedding import converters
from services.embedding.converters import DOMAIN
from services.embedding.names import INDEXES, MODELS, parse_name
from services.embedding.pages import page_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import grpc

    from services.embedding.embedder import Embedder
    from services.embedding.indexes import Indexes
    from services.embedding.models import Models
    from services.embedding.search import Searcher
    from services.embedding.settings import EmbeddingSettings

    Context = grpc.aio.ServicerContext[Any, Any]

NAME = service_pb2.DESCRIPTOR.services_by_name["EmbeddingService"].full_name


@dataclass(frozen=True, kw_only=True)
class Platform:
    """What the server runs on."""

    provider: str
    available_providers: Sequence[str]
    uri_schemes: Sequence[str]


class EmbeddingServicer(embedding_service_pb2_grpc.EmbeddingServiceServicer):
    """EmbeddingService over the parts of the service."""

    def __init__(
        self,
        models: Models,
        indexes: Indexes,
        embedder: Embedder,
        searcher: Searcher,
        *,
        settings: EmbeddingSettings,
        platform: Platform,
    ) -> None:
        self._models, self._indexes, self._embedder, self._searcher = models, indexes, embedder, searcher
        self._settings, self._platform = settings, platform

    async def GetServerInfo(
        self,
        request: service_pb2.GetServerInfoRequest,  # noqa: ARG002  the form of every RPC
        context: Context,  # noqa: ARG002  the form of every RPC
    ) -> service_pb2.ServerInfo:
        limits = self._settings
        return service_pb2.ServerInfo(
            version=__version__,
            execution_provider=self._platform.provider,
            available_providers=self._platform.available_providers,
            uri_schemes=self._platform.uri_schemes,
            max_images_per_request=limits.max_images_per_request,
            max_image_bytes=limits.max_image_bytes,
            max_image_pixels=limits.max_image_pixels,
            max_queries_per_request=limits.max_queries_per_request,
            max_neighbors=limits.max_neighbors,
        )

    async def CreateModel(self, request: service_pb2.CreateModelRequest, context: Context) -> resources_pb2.Model:
        async with translate_errors(context, "CreateModel", DOMAIN):
            spec, name = converters.to_model_spec(request)
            record = await self._models.create(spec, name, request_id=_request_id(request.request_id))
            return converters.from_model(record, provider=self._models.provider(record.name))

    async def GetModel(self, request: service_pb2.GetModelRequest, context: Context) -> resources_pb2.Model:
        async with translate_errors(context, "GetModel", DOMAIN):
            return self._model(str(parse_name(request.name, MODELS)))

    async def ListModels(
        self, request: service_pb2.ListModelsRequest, context: Context
    ) -> service_pb2.ListModelsResponse:
        async with translate_errors(context, "ListModels", DOMAIN):
            parent = f"projects/{parse_parent(request.parent)}/models"
            names = self._models.names(parent)
            page, token = page_of(
                names, parent=parent, size=request.page_size, token=request.page_token, resource=self._model
            )
            return service_pb2.ListModelsResponse(models=page, next_page_token=token)

    async def DeleteModel(self, request: service_pb2.DeleteModelRequest, context: Context) -> empty_pb2.Empty:
        async with translate_errors(context, "DeleteModel", DOMAIN):
            await self._models.delete(str(parse_name(request.name, MODELS)))
            return empty_pb2.Empty()

    async def EmbedImages(
        self, request: service_pb2.EmbedImagesRequest, context: Context
    ) -> service_pb2.EmbedImagesResponse:
        async with translate_errors(context, "EmbedImages", DOMAIN):
            model = parse_name(request.model, MODELS, field="model")
            images = converters.to_images(request, most=self._settings.max_images_per_request)
            space = converters.to_space(request.space, "space")
            return converters.from_vectors(await self._embedder.embed(str(model), images, space))

    async def CreateIndex(self, request: service_pb2.CreateIndexRequest, context: Context) -> resources_pb2.Index:
        async with translate_errors(context, "CreateIndex", DOMAIN):
            spec, name = converters.to_index_spec(request)
            record = await self._indexes.create(spec, name, request_id=_request_id(request.request_id))
            return converters.from_index(record)

    async def GetIndex(self, request: service_pb2.GetIndexRequest, context: Context) -> resources_pb2.Index:
        async with translate_errors(context, "GetIndex", DOMAIN):
            return self._index(str(parse_name(request.name, INDEXES)))

    async def ListIndexes(
        self, request: service_pb2.ListIndexesRequest, context: Context
    ) -> service_pb2.ListIndexesResponse:
        async with translate_errors(context, "ListIndexes", DOMAIN):
            parent = f"projects/{parse_parent(request.parent)}/indexes"
            names = self._indexes.board.names(parent)
            page, token = page_of(
                names, parent=parent, size=request.page_size, token=request.page_token, resource=self._index
            )
            return service_pb2.ListIndexesResponse(indexes=page, next_page_token=token)

    async def WatchIndex(  # type: ignore[override]  # the stub knows only generators, which leak when cancelled
        self, request: service_pb2.WatchIndexRequest, context: Context
    ) -> None:
        async with translate_errors(context, "WatchIndex", DOMAIN):
            name = str(parse_name(request.name, INDEXES))
            changes = self._indexes.board.changes(name, heartbeat_seconds=self._settings.heartbeat_s)
            async with aclosing(changes):
                async for record, heartbeat in changes:
                    event = service_pb2.IndexEvent(index=converters.from_index(record), heartbeat=heartbeat)
                    event.event_time.GetCurrentTime()
                    await context.write(event)

    async def DeleteIndex(self, request: service_pb2.DeleteIndexRequest, context: Context) -> empty_pb2.Empty:
        async with translate_errors(context, "DeleteIndex", DOMAIN):
            await self._indexes.delete(str(parse_name(request.name, INDEXES)))
            return empty_pb2.Empty()

    async def SearchNeighbors(
        self, request: service_pb2.SearchNeighborsRequest, context: Context
    ) -> service_pb2.SearchNeighborsResponse:
        async with translate_errors(context, "SearchNeighbors", DOMAIN):
            index = parse_name(request.index, INDEXES, field="index")
            queries = converters.to_queries(request, most=self._settings.max_queries_per_request)
            count = converters.to_num_neighbors(request, most=self._settings.max_neighbors)
            return converters.from_neighbors(await self._searcher.search(str(index), queries, k=count))

    def _model(self, name: str) -> resources_pb2.Model:
        return converters.from_model(self._models.get(name), provider=self._models.provider(name))

    def _index(self, name: str) -> resources_pb2.Index:
        return converters.from_index(self._indexes.board.get(name))


def _request_id(text: str) -> str | None:
    return parse_request_id(text) if text else None
