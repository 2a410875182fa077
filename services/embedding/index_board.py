"""The records of indexes as they are now, and who watches them."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

from services.common.errors import ServiceError
from services.embedding.records import IndexRecord, IndexState

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

ENDED = frozenset({IndexState.READY, IndexState.FAILED})
LEAST_SECONDS_BETWEEN_EVENTS = 0.1


class IndexBoard:
    """Records by name. Used from one event loop.

    Args:
        stopping: Set when the server drains: watches end.
    """

    def __init__(self, stopping: asyncio.Event) -> None:
        self._records: dict[str, IndexRecord] = {}
        self._watches: set[tuple[str, asyncio.Event]] = set()
        self._stopping = stopping

    def get(self, name: str) -> IndexRecord:
        """An index that callers see. Raises INDEX_NOT_FOUND."""
        record = self._records.get(name)
        if record is None or record.state is IndexState.DELETING:
            raise ServiceError("INDEX_NOT_FOUND", f"there is no index {name}", name=name)
        return record

    def deletable(self, name: str) -> IndexRecord:
        """An index that is there or half deleted. Raises INDEX_NOT_FOUND."""
        return self._records.get(name) or self.get(name)

    def names(self, parent: str) -> list[str]:
        """Names of the indexes of a project that callers see, in order."""
        of_parent = (one for name, one in self._records.items() if name.startswith(f"{parent}/"))
        return sorted(one.name for one in of_parent if one.state is not IndexState.DELETING)

    def put(self, record: IndexRecord) -> None:
        """Show a record as it is now."""
        self._records[record.name] = record
        self._wake(record.name)

    def remove(self, name: str) -> None:
        self._records.pop(name, None)
        self._wake(name)

    async def changes(self, name: str, *, heartbeat_seconds: float) -> AsyncGenerator[tuple[IndexRecord, bool], None]:
        """The record now and at every change, until it is READY or FAILED.

        Yields:
            The record, and False; or True when nothing changed for `heartbeat_seconds`.

        Raises:
            ServiceError: INDEX_NOT_FOUND, also when it is deleted meanwhile; SERVER_STOPPING.
        """
        sent: IndexRecord | None = None
        with self._watch(name) as changed:
            while sent is None or sent.state not in ENDED:
                changed.clear()
                self._refuse_when_stopping()
                record = self._same(name, sent)
                if record != sent:
                    yield record, False
                    sent = record
                    await asyncio.sleep(LEAST_SECONDS_BETWEEN_EVENTS)
                elif not await self._wait(changed, heartbeat_seconds):
                    yield record, True

    @contextmanager
    def _watch(self, name: str) -> Iterator[asyncio.Event]:
        watch = (name, asyncio.Event())
        self._watches.add(watch)
        try:
            yield watch[1]
        finally:
            self._watches.discard(watch)

    def _same(self, name: str, sent: IndexRecord | None) -> IndexRecord:
        record = self.get(name)
        if sent is not None and record.uid != sent.uid:
            raise ServiceError("INDEX_NOT_FOUND", f"{name} was deleted; another index has its name now", name=name)
        return record

    async def _wait(self, changed: asyncio.Event, seconds: float) -> bool:
        """Whether something changed, or this server stops, within the time."""
        waits = [asyncio.ensure_future(one.wait()) for one in (changed, self._stopping)]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return changed.is_set() or self._stopping.is_set()

    def _refuse_when_stopping(self) -> None:
        if self._stopping.is_set():
            raise ServiceError("SERVER_STOPPING", "this server stops; watch again")

    def _wake(self, name: str) -> None:
        for watched, changed in self._watches:
            if watched == name:
                changed.set()
