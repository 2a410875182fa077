"""Builds of indexes: one after the other, again when the object store does not answer, stopped when told."""

from __future__ import annotations

import asyncio
import logging
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from eif_engine.errors import EifError
from services.common.access.places import Places
from services.common.errors import ServiceError
from services.embedding.build_progress import BuildCancelled, BuildLimits, BuildProgress
from services.embedding.disk import disk_errors
from services.embedding.index_build import IndexBuild
from services.embedding.names import INDEXES, parse_name
from services.embedding.records import Failure, IndexRecord, IndexState
from services.embedding.stored_index import (
    VECTORS_NAME,
    IndexManifest,
    load_vectors,
    manifest_uri,
    read_index_manifest,
)
from services.embedding.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from services.common.storage.base import ObjectStore
    from services.embedding.encoder import Encoder
    from services.embedding.knn import KnnIndex
    from services.embedding.models import Models

    OnProgress = Callable[[IndexRecord], None]
    OnEnd = Callable[[IndexRecord, KnnIndex | None], Awaitable[None]]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class BuildsLimits:
    """What builds may take.

    Attributes:
        max_waiting: Indexes that are built or wait for it.
        search_threads: Of the searches in a built index.
        storage_tries: How often a build is tried when the object store does not answer.
        storage_pause_seconds: Before the second try; twice as long before each further one.
        build: Of one build.
    """

    max_waiting: int = 16
    search_threads: int = 1
    storage_tries: int = 4
    storage_pause_seconds: float = 5.0
    build: BuildLimits = field(default_factory=BuildLimits)


class Builds:
    """Builds by the name of their index. Used from one event loop.

    Args:
        models: That embed the samples.
        store: Of manifests, images and results.
        scratch: Folder of this server alone.
        limits: What builds may take.
        on_progress: Told how far an index is.
        on_end: Awaited when an index is READY, with it, or FAILED; not when its build was stopped.
        places: Where the samples of each project may lie.
    """

    def __init__(
        self,
        models: Models,
        store: ObjectStore,
        *,
        scratch: Path,
        limits: BuildsLimits,
        on_progress: OnProgress,
        on_end: OnEnd,
        places: Places | None = None,
    ) -> None:
        self._places = places or Places()
        self._models, self._store, self._scratch, self._limits = models, store, scratch, limits
        self._on_progress, self._on_end = on_progress, on_end
        self._running: dict[str, tuple[asyncio.Task[None], threading.Event]] = {}
        self._turn = asyncio.Lock()
        self._waiting: set[str] = set()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="index-build")
        self._tasks = Tasks()

    def check_room(self) -> None:
        """Raises QUEUE_FULL when no more may wait."""
        waiting, limit = len(self._running), self._limits.max_waiting
        if waiting >= limit:
            raise ServiceError(
                "QUEUE_FULL",
                f"{waiting} indexes are being built or wait for it, and this server's limit is {limit}: "
                "try again when one of them is READY",
                waiting=waiting,
                limit=limit,
            )

    def start(self, record: IndexRecord) -> None:
        """Queue a build."""
        stop = threading.Event()
        task = self._tasks.start(self._wait_and_run(record, stop))
        self._running[record.name] = (task, stop)
        task.add_done_callback(lambda _: self._running.pop(record.name, None))

    async def stop(self, name: str) -> None:
        """Stop a build, if there is one, and wait until it has ended."""
        if (running := self._running.get(name)) is not None:
            task, stop = running
            stop.set()
            if name in self._waiting:
                task.cancel()
            await asyncio.wait({task})

    async def close(self) -> None:
        """Stop all builds."""
        for _, stop in self._running.values():
            stop.set()
        await self._tasks.cancel()
        await asyncio.to_thread(self._thread.shutdown, wait=True, cancel_futures=True)

    async def _wait_and_run(self, record: IndexRecord, stop: threading.Event) -> None:
        self._waiting.add(record.name)
        try:
            async with self._turn:
                self._waiting.discard(record.name)
                await self._run(record, stop)
        finally:
            self._waiting.discard(record.name)

    async def _run(self, record: IndexRecord, stop: threading.Event) -> None:
        index: KnnIndex | None = None
        try:
            ended, index = await self._try(record, stop)
        except BuildCancelled:
            return
        except EifError as error:
            ended = self._failed(record, Failure(reason=error.reason, message=error.message, metadata=error.metadata))
        except Exception:
            logger.exception("unexpected error while %s was built", record.name)
            ended = self._failed(record, Failure(reason="INTERNAL", message="internal error"))
        if not stop.is_set():
            await self._on_end(ended, index)

    async def _try(self, record: IndexRecord, stop: threading.Event) -> tuple[IndexRecord, KnnIndex | None]:
        """Build; again after a pause when the object store does not answer."""
        pause = self._limits.storage_pause_seconds
        for _ in range(1, self._limits.storage_tries):
            try:
                return await self._try_once(record, stop)
            except ServiceError as error:
                if error.reason != "STORAGE_UNAVAILABLE":
                    raise
                logger.warning("the build of %s starts again in %g s: %s", record.name, pause, error.message)
            await asyncio.to_thread(stop.wait, pause)
            pause *= 2
        return await self._try_once(record, stop)

    async def _try_once(self, record: IndexRecord, stop: threading.Event) -> tuple[IndexRecord, KnnIndex | None]:
        encoder = await self._models.encoder(record.spec.model)
        loop = asyncio.get_running_loop()

        def report(progress: BuildProgress) -> None:
            loop.call_soon_threadsafe(self._on_progress, advanced(record, progress))

        return await loop.run_in_executor(self._thread, partial(self._build, record, encoder, stop, report))

    def _build(
        self, record: IndexRecord, encoder: Encoder, stop: threading.Event, report: Callable[[BuildProgress], None]
    ) -> tuple[IndexRecord, KnnIndex | None]:
        """In the thread: build and store, unless that was done before the server was killed."""
        if stop.is_set():
            raise BuildCancelled
        folder = record.folder
        if (stored := self._stored(folder)) is not None:
            return ready(record, *stored, uri=manifest_uri(folder)), None
        scratch = self._scratch / record.uid
        shutil.rmtree(scratch, ignore_errors=True)
        try:
            with disk_errors():
                scratch.mkdir(parents=True, mode=0o700)
                return self._build_new(record, encoder, scratch, stop, report)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _build_new(
        self,
        record: IndexRecord,
        encoder: Encoder,
        scratch: Path,
        stop: threading.Event,
        report: Callable[[BuildProgress], None],
    ) -> tuple[IndexRecord, KnnIndex]:
        built = IndexBuild(
            record,
            encoder=encoder,
            model_sha256=self._models.get(record.spec.model).sha256,
            store=self._places.confined(self._store, parse_name(record.name, INDEXES).project, record.folder),
            target=record.folder,
            scratch=scratch,
            limits=self._limits.build,
            report=report,
            stop=stop,
        ).run()
        index = load_vectors(
            built.vectors,
            uri=f"{record.folder}/{VECTORS_NAME}",
            dim=built.manifest.dim,
            rows=built.manifest.vectors.rows,
            threads=self._limits.search_threads,
        )
        return ready(record, built.manifest, built.sha256, uri=manifest_uri(record.folder)), index

    def _stored(self, folder: str) -> tuple[IndexManifest, str] | None:
        try:
            return read_index_manifest(self._store, folder)
        except ServiceError as error:
            if error.reason == "OBJECT_NOT_FOUND":
                return None
            raise

    def _failed(self, record: IndexRecord, failure: Failure) -> IndexRecord:
        return record.model_copy(update={"state": IndexState.FAILED, "failure": failure})


def advanced(record: IndexRecord, progress: BuildProgress) -> IndexRecord:
    """The record with what is known during the build."""
    return record.model_copy(
        update={
            "samples_done": progress.done,
            "samples_total": progress.total,
            "samples_quarantined": progress.quarantined,
            "quarantined": tuple(progress.listed),
            "dim": progress.dim,
        }
    )


def ready(record: IndexRecord, manifest: IndexManifest, sha256: str, *, uri: str) -> IndexRecord:
    """The record of a stored index."""
    return record.model_copy(
        update={
            "state": IndexState.READY,
            "samples_done": manifest.vectors.rows,
            "samples_total": manifest.samples_total,
            "samples_quarantined": manifest.samples_quarantined,
            "quarantined": manifest.quarantined,
            "dim": manifest.dim,
            "stored_uri": uri,
            "stored_sha256": sha256,
        }
    )
