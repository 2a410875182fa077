"""The bytes of the files of a result: tables as Parquet, report.html, pictures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass

from services.common.errors import ServiceError
from services.common.storage.base import ObjectStore
from services.influence.deleted import unless_deleted
from services.influence.job import Job
from services.influence.ledger import Ledger
from services.influence.names import invalid, shown
from services.influence.result_manifest import FileEntry
from services.influence.result_reader import corrupt
from services.influence.results import require_success

CHUNK_BYTES = 512 << 10


@dataclass(frozen=True, kw_only=True)
class FileRequest:
    """Which file of which job, and from which byte on."""

    name: str
    file: str
    offset: int = 0


@dataclass(frozen=True, kw_only=True)
class Part:
    """Part of a file: its bytes, their place, and size and sha256 of the whole file."""

    data: bytes
    offset: int
    total_bytes: int
    sha256: str


class JobFiles:
    """Reads files of jobs that succeeded.

    Args:
        ledger: The jobs.
        store: Where the files are.
        stopping: Set when the server stops: streams then end, to be resumed elsewhere.
    """

    def __init__(self, *, ledger: Ledger, store: ObjectStore, stopping: asyncio.Event) -> None:
        self._ledger = ledger
        self._store = store
        self._stopping = stopping

    async def parts(self, request: FileRequest) -> AsyncGenerator[Part, None]:
        """A file from the offset on; at least one part, which is empty at the end of the file.

        Raises:
            ServiceError: JOB_NOT_FOUND, JOB_NOT_SUCCEEDED, FILE_NOT_FOUND, ARGUMENT_INVALID for an offset past its end,
                RESULT_CORRUPT when the file is gone or has another size, SERVER_STOPPING, and those of the store.
        """
        job = await self._ledger.get(request.name)
        entry = _entry(job, request.file)
        if request.offset > entry.bytes:
            what = f"{request.offset} is past the end of {shown(request.file)}, which has {entry.bytes} bytes"
            raise invalid("offset", what)
        with closing(self._read(f"{job.folder_uri}/{entry.file}", entry, request.offset)) as parts:
            while part := await self._next(request.name, parts):
                if self._stopping.is_set():
                    raise ServiceError("SERVER_STOPPING", f"this server stops; go on at offset {part.offset}")
                yield part

    async def _next(self, name: str, parts: Iterator[Part]) -> Part | None:
        async with unless_deleted(self._ledger, name):
            return await asyncio.to_thread(next, parts, None)

    def _read(self, uri: str, entry: FileEntry, offset: int) -> Generator[Part, None, None]:
        try:
            info = self._store.head(uri)
        except ServiceError as error:
            if error.reason == "OBJECT_NOT_FOUND":
                raise corrupt(uri, "MANIFEST.json names it, but it is gone") from error
            raise
        if info.size != entry.bytes:
            raise corrupt(uri, f"it has {info.size} bytes, not {entry.bytes}, as MANIFEST.json says")
        with self._store.open(uri, offset=offset, etag=info.etag) as stream:
            while True:
                data = stream.read(CHUNK_BYTES)
                yield Part(data=data, offset=offset, total_bytes=entry.bytes, sha256=entry.sha256)
                offset += len(data)
                if not data or offset >= entry.bytes:
                    return


def _entry(job: Job, file: str) -> FileEntry:
    manifest = require_success(job).manifest
    entries: list[FileEntry] = [*manifest.tables.values(), *manifest.files.values()]
    for entry in entries:
        if entry.name == file:
            return entry
    known = ", ".join(sorted(entry.name for entry in entries))
    raise ServiceError(
        "FILE_NOT_FOUND", f"{job.name} has no file {shown(file)}; it has {known}", name=job.name, file=file[:256]
    )
