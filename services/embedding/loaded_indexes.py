"""Stored indexes in memory: loaded when they are searched, the least recently searched ones let go of first."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from typing import TYPE_CHECKING

from services.embedding.stored_index import open_stored_index
from services.embedding.tasks import Tasks

if TYPE_CHECKING:
    from pathlib import Path

    from services.common.storage.base import ObjectStore
    from services.embedding.knn import KnnIndex
    from services.embedding.records import IndexRecord

logger = logging.getLogger(__name__)


class LoadedIndexes:
    """Indexes by uid. Used from one event loop; loads in threads.

    Args:
        store: Where they are stored.
        scratch: Folder for files on their way into memory.
        max_bytes: Of the vectors of all of them; one is always kept.
        threads: Of one search.
    """

    def __init__(self, store: ObjectStore, scratch: Path, *, max_bytes: int, threads: int) -> None:
        self._store, self._scratch = store, scratch
        self._max_bytes, self._threads = max_bytes, threads
        self._indexes: OrderedDict[str, KnnIndex] = OrderedDict()
        self._loading: dict[str, asyncio.Task[KnnIndex]] = {}
        self._tasks = Tasks()

    async def get(self, record: IndexRecord) -> KnnIndex:
        """The index of a READY record.

        Raises:
            ServiceError: OBJECT_NOT_FOUND, OBJECT_DIGEST_MISMATCH or RESULT_CORRUPT when what is stored has changed.
        """
        if record.uid in self._indexes:
            self._indexes.move_to_end(record.uid)
            return self._indexes[record.uid]
        if record.uid not in self._loading:
            self._loading[record.uid] = self._tasks.start(self._load(record))
        return await asyncio.shield(self._loading[record.uid])

    def add(self, uid: str, index: KnnIndex) -> None:
        """Take an index that was just built."""
        self._indexes[uid] = index
        self._indexes.move_to_end(uid)
        while len(self._indexes) > 1 and sum(one.nbytes for one in self._indexes.values()) > self._max_bytes:
            dropped, _ = self._indexes.popitem(last=False)
            logger.info("index left memory", extra={"fields": {"uid": dropped}})

    def drop(self, uid: str) -> None:
        """Forget an index; searches that run keep theirs until they end."""
        self._indexes.pop(uid, None)
        self._loading.pop(uid, None)

    async def close(self) -> None:
        await self._tasks.cancel()
        self._indexes.clear()

    async def _load(self, record: IndexRecord) -> KnnIndex:
        try:
            index = await asyncio.to_thread(self._open, record)
        except BaseException:
            self._loading.pop(record.uid, None)
            raise
        if self._loading.pop(record.uid, None) is not None:
            self.add(record.uid, index)
        return index

    def _open(self, record: IndexRecord) -> KnnIndex:
        if record.stored_sha256 is None:
            raise ValueError(f"{record.name} is not stored")
        return open_stored_index(
            self._store,
            record.folder,
            sha256=record.stored_sha256,
            scratch=self._scratch / f"{record.uid}.parquet",
            threads=self._threads,
        )
