"""The indexes of this server: created, brought back after a restart, opened for searches, deleted."""

from __future__ import annotations

import asyncio
import logging
import shutil
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from eif_engine.config import NeighborSpace
from eif_engine.errors import EifError
from services.common.errors import ServiceError
from services.common.names import invalid
from services.embedding.builds import Builds, BuildsLimits
from services.embedding.encoder import space_not_available
from services.embedding.index_board import IndexBoard
from services.embedding.loaded_indexes import LoadedIndexes
from services.embedding.models import spec_digest
from services.embedding.names import INDEXES
from services.embedding.records import IndexRecord, IndexSpec, IndexState
from services.embedding.registry import Database, Registry
from services.embedding.stored_index import check_target, delete_stored_index, folder_uri
from services.embedding.tasks import Tasks

if TYPE_CHECKING:
    from pathlib import Path

    from services.common.access.places import Places
    from services.common.storage.base import ObjectStore
    from services.embedding.knn import KnnIndex
    from services.embedding.models import Models
    from services.embedding.names import Name

logger = logging.getLogger(__name__)


class Indexes:
    """Indexes by name. Used from one event loop.

    Args:
        database: Where they are kept.
        models: That embed the samples.
        store: Of manifests, images and what is stored.
        prefix: URI under which new indexes are stored; None: there are no new ones.
        scratch: Folder of this server alone; emptied at the start.
        stopping: Set when the server drains.
        limits: What builds may take.
        max_loaded_bytes: Of the vectors in memory.
        places: Where the samples of each project may lie; anywhere by default.
    """

    def __init__(
        self,
        database: Database,
        models: Models,
        store: ObjectStore,
        *,
        prefix: str | None,
        scratch: Path,
        stopping: asyncio.Event,
        limits: BuildsLimits,
        max_loaded_bytes: int,
        places: Places | None = None,
    ) -> None:
        self._registry = Registry(database, collection=INDEXES, kind=IndexRecord, noun="INDEX")
        self._models, self._store, self._prefix, self._scratch = models, store, prefix, scratch
        self._loaded = LoadedIndexes(store, scratch, max_bytes=max_loaded_bytes, threads=limits.search_threads)
        self.board = IndexBoard(stopping)
        self._builds = Builds(
            models,
            store,
            scratch=scratch,
            limits=limits,
            on_progress=self._show_progress,
            on_end=self._end_build,
            places=places,
        )
        self._tasks = Tasks()

    def start(self) -> None:
        """Bring back the indexes of an earlier run: go on building and deleting what was cut short."""
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch.mkdir(parents=True, mode=0o700)
        for record in self._registry.all():
            self.board.put(record)
            if record.state is IndexState.BUILDING:
                self._builds.start(record)
            elif record.state is IndexState.DELETING:
                self._tasks.start(self._delete_again(record))

    async def close(self) -> None:
        """Stop building; what is not finished starts again with the next run."""
        await self._builds.close()
        await self._tasks.cancel()
        await self._loaded.close()

    async def create(self, spec: IndexSpec, name: Name, *, request_id: str | None) -> IndexRecord:
        """Start to build an index.

        Raises:
            ServiceError: MODEL_NOT_FOUND, SPACE_NOT_AVAILABLE, QUEUE_FULL, INDEX_ALREADY_EXISTS, REQUEST_ID_REUSED;
                those of the store when the index could not be stored at the end.
        """
        if self._prefix is None:
            raise invalid("parent", "this server has no place for indexes; start it with --index-uri-prefix")
        model = self._models.get(spec.model)
        if spec.space is NeighborSpace.PENULTIMATE and model.feature_dim == 0:
            raise space_not_available(spec.model, spec.space)
        uid, now = str(uuid.uuid4()), datetime.now(UTC)
        folder = folder_uri(self._prefix, name, uid)
        await asyncio.to_thread(check_target, self._store, folder)
        record = IndexRecord(uid=uid, spec=spec, folder=folder, create_time=now, update_time=now)
        return await self._tasks.finish(self._create(record, name, request_id))

    async def delete(self, name: str) -> None:
        """Stop a build, remove what is stored, forget the index. Raises INDEX_NOT_FOUND."""
        await self._tasks.finish(self._delete(self.board.deletable(name)))

    async def open(self, name: str) -> KnnIndex:
        """An index in memory, to search it.

        Raises:
            ServiceError: INDEX_NOT_FOUND, INDEX_NOT_READY; those of the store when what is stored has changed.
        """
        record = self.board.get(name)
        if record.state is not IndexState.READY:
            why = f": {record.failure.message}" if record.failure else "; watch it until it is READY"
            raise ServiceError(
                "INDEX_NOT_READY", f"{name} is {record.state.value.upper()}{why}", name=name, state=record.state.value
            )
        return await self._loaded.get(record)

    async def _create(self, record: IndexRecord, name: Name, request_id: str | None) -> IndexRecord:
        spec, digest = record.spec, spec_digest(record.spec)
        earlier = await asyncio.to_thread(
            self._registry.existing, spec.name, name.parent, request_id=request_id, digest=digest
        )
        if earlier is None:
            self._builds.check_room()
            kept = await asyncio.to_thread(
                self._registry.add,
                record,
                spec.name,
                name.parent,
                request_id=request_id,
                digest=digest,
                uses=spec.model,
            )
            if kept.uid == record.uid:
                self.board.put(record)
                self._builds.start(record)
        return self.board.get(spec.name)

    async def _delete(self, record: IndexRecord) -> None:
        deleting = record.model_copy(update={"state": IndexState.DELETING})
        self.board.put(deleting)
        await self._builds.stop(record.name)
        await asyncio.to_thread(self._registry.update, deleting, record.name)
        self.board.put(deleting)  # the build may have ended while it was being stopped
        self._loaded.drop(record.uid)
        await asyncio.to_thread(delete_stored_index, self._store, record.folder)
        await asyncio.to_thread(self._registry.remove, record.name)
        self.board.remove(record.name)

    async def _delete_again(self, record: IndexRecord) -> None:
        try:
            await self._delete(record)
        except EifError as error:
            logger.warning("%s could not be deleted to the end, delete it again: %s", record.name, error.message)

    def _show_progress(self, record: IndexRecord) -> None:
        if self._is_building(record):
            self.board.put(_touched(record))

    async def _end_build(self, record: IndexRecord, index: KnnIndex | None) -> None:
        if not self._is_building(record):
            return
        if record.state is IndexState.FAILED:
            record = _with_progress(record, self.board.get(record.name))
        ended = _touched(record)
        try:
            await asyncio.to_thread(self._registry.update, ended, record.name)
        except ServiceError as error:  # the next server finds out from what is stored
            logger.warning("the end of %s is not on record: %s", record.name, error.message)
        if index is not None:
            self._loaded.add(record.uid, index)
        self.board.put(ended)
        fields = {"index": record.name, "state": record.state.value, "samples": record.samples_done}
        if record.failure is not None:
            fields["reason"] = record.failure.reason
        logger.info("build ended", extra={"fields": fields})

    def _is_building(self, record: IndexRecord) -> bool:
        try:
            now = self.board.get(record.name)
        except ServiceError:
            return False
        return now.uid == record.uid and now.state is IndexState.BUILDING


def _touched(record: IndexRecord) -> IndexRecord:
    return record.model_copy(update={"update_time": datetime.now(UTC)})


def _with_progress(record: IndexRecord, last: IndexRecord) -> IndexRecord:
    """A failed record with how far it had come."""
    known = ("samples_done", "samples_total", "samples_quarantined", "quarantined", "dim")
    return record.model_copy(update={name: getattr(last, name) for name in known})
