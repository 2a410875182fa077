"""The parts of the service put together: from settings to a servicer, and back to nothing."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from eif_engine.data.images import ImageLimits
from services.common.access.places import Places, open_policy
from services.common.errors import ServiceError
from services.embedding.admission import Admission
from services.embedding.build_progress import BuildLimits
from services.embedding.builds import BuildsLimits
from services.embedding.embedder import Embedder
from services.embedding.images import ImageLoader
from services.embedding.indexes import Indexes
from services.embedding.metrics import EmbeddingMetrics
from services.embedding.models import ModelLimits, Models
from services.embedding.onnx_check import ProbeLimits
from services.embedding.registry import Database
from services.embedding.search import Searcher
from services.embedding.servicer import EmbeddingServicer, Platform
from services.embedding.session import available_providers, choose_provider

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.common.storage.base import ObjectStore
    from services.embedding.settings import EmbeddingSettings

SEARCHES_AT_A_TIME = 2
STATE_PATIENCE_S = 2.0
"""For the state file to answer a probe."""


class EmbeddingApp:
    """Everything behind the servicer. Made and closed in one event loop, by whoever holds the state folder.

    Args:
        settings: Of the service.
        store: The object store.
        uri_schemes: That the store knows.
        metrics: Takes what is measured.

    Raises:
        EifError: The device asked for does not work, or the state is of another version.
    """

    def __init__(
        self,
        settings: EmbeddingSettings,
        store: ObjectStore,
        *,
        uri_schemes: Sequence[str],
        metrics: EmbeddingMetrics | None = None,
    ) -> None:
        metrics = metrics or EmbeddingMetrics()
        state = settings.state_dir.absolute()
        self.stopping = asyncio.Event()
        self._checking: asyncio.Task[str | None] | None = None
        provider = choose_provider(settings.device)
        image_limits = ImageLimits(max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels)
        self._image_threads = ThreadPoolExecutor(settings.image_threads, thread_name_prefix="images")
        self._search_threads = ThreadPoolExecutor(SEARCHES_AT_A_TIME, thread_name_prefix="search")
        self._database = Database(state / "registry.sqlite")
        self._models = Models(
            self._database,
            store,
            state / "models",
            provider=provider,
            limits=model_limits(settings),
            metrics=metrics,
        )
        self._indexes = Indexes(
            self._database,
            self._models,
            store,
            prefix=settings.index_uri_prefix,
            scratch=state / "scratch",
            stopping=self.stopping,
            limits=builds_limits(settings, image_limits),
            max_loaded_bytes=settings.max_index_bytes,
            places=Places(open_policy(settings)),
        )
        images = Admission("images", max_items=settings.max_pending_images, max_bytes=settings.max_pending_bytes)
        embedder = Embedder(
            self._models,
            ImageLoader(store, image_limits, self._image_threads, metrics),
            images,
            batch=settings.max_images_per_request,
        )
        queries = Admission("queries", max_items=settings.max_pending_queries, max_bytes=settings.max_pending_bytes)
        for name, queue in (("images", images), ("queries", queries)):
            metrics.show_queue(name, queue)
        self.servicer = EmbeddingServicer(
            self._models,
            self._indexes,
            embedder,
            Searcher(self._indexes, embedder, queries, self._search_threads, metrics),
            settings=settings,
            platform=Platform(provider=provider, available_providers=available_providers(), uri_schemes=uri_schemes),
        )

    def start(self) -> None:
        """Bring back what an earlier run had."""
        self._models.start()
        self._indexes.start()

    async def check_state(self) -> str | None:
        """What is wrong with the file that keeps models and indexes; asked once at a time, however often this is."""
        if self._checking is None or self._checking.done():
            self._checking = asyncio.create_task(asyncio.to_thread(self._fault))
        done, _ = await asyncio.wait({self._checking}, timeout=STATE_PATIENCE_S)
        return self._checking.result() if done else f"the state file has not answered for {STATE_PATIENCE_S:g} s"

    def _fault(self) -> str | None:
        try:
            self._database.check()
        except ServiceError as error:
            return f"the state file cannot be used ({error.reason})"
        return None

    async def close(self) -> None:
        """Stop what runs. Nothing of it is lost: it goes on with the next run."""
        self.stopping.set()
        await self._indexes.close()
        await self._models.close()
        for threads in (self._image_threads, self._search_threads):
            threads.shutdown(wait=False, cancel_futures=True)
        self._database.close()


def model_limits(settings: EmbeddingSettings) -> ModelLimits:
    """What models may take."""
    return ModelLimits(
        max_models=settings.max_models,
        max_bytes=settings.max_model_bytes,
        threads=settings.threads,
        probe=ProbeLimits(
            memory_bytes=settings.probe_memory_bytes,
            seconds=settings.probe_seconds,
            batch=settings.max_images_per_request,
        ),
    )


def builds_limits(settings: EmbeddingSettings, images: ImageLimits) -> BuildsLimits:
    """What builds of indexes may take."""
    return BuildsLimits(
        max_waiting=settings.max_pending_builds,
        search_threads=settings.search_threads,
        build=BuildLimits(
            max_index_bytes=settings.max_index_bytes,
            images=images,
            batch=settings.max_images_per_request,
            image_threads=settings.image_threads,
        ),
    )


def check_prefix(prefix: str | None, schemes: Sequence[str]) -> None:
    """Refuse to start with a place for indexes that the store is not set up for. Raises ARGUMENT_INVALID."""
    if prefix is not None and prefix.partition("://")[0] not in schemes:
        how = "EIF_STORAGE_S3_ENDPOINT" if prefix.startswith("s3:") else "EIF_STORAGE_FILE_ROOTS"
        raise ServiceError(
            "ARGUMENT_INVALID",
            f"index_uri_prefix is {prefix}, but that scheme is off: set {how}",
            field="index_uri_prefix",
        )
