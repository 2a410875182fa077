"""Copies of result tables on this machine: fetched once, verified, bounded."""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

from services.common.errors import ServiceError
from services.common.storage.base import ObjectStore
from services.influence.job import Job
from services.influence.result_manifest import TableEntry
from services.influence.result_reader import corrupt

if TYPE_CHECKING:  # pyarrow is imported with the first table that is asked for
    from services.influence.stored_table import StoredTable

logger = logging.getLogger(__name__)


class TableCache:
    """Tables by their sha256. Synchronous and thread-safe; a table is fetched once, however many ask for it.

    Args:
        store: Where the tables are.
        folder: For the copies; emptied at the start.
        max_bytes: Of all copies; the least recently used go first. One that is in use stays readable.
        max_table_bytes: Of one Parquet file.
    """

    def __init__(self, store: ObjectStore, folder: Path, *, max_bytes: int, max_table_bytes: int) -> None:
        self._store = store
        self._folder = folder
        self._max_bytes = max_bytes
        self._max_table_bytes = max_table_bytes
        self._lock = threading.Lock()
        self._tables: OrderedDict[str, StoredTable] = OrderedDict()
        self._fetches: dict[str, threading.Lock] = {}
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, mode=0o700)

    def open(self, job: Job, name: str) -> StoredTable:
        """A table of a job that succeeded.

        Raises:
            ServiceError: TABLE_NOT_FOUND, RESULT_CORRUPT when it is gone or is not what MANIFEST.json says,
                RESOURCE_PROBLEM when the disk is full, and those of the store.
        """
        entry = table_entry(job, name)
        with self._lock:
            fetch = self._fetches.setdefault(entry.sha256, threading.Lock())
        try:
            with fetch:
                table = self._known(entry)
                if table is None:
                    table = self._fetch(f"{job.folder_uri}/{entry.file}", name, entry)
                    self._keep(entry, table)
                return table
        finally:
            with self._lock:
                self._fetches.pop(entry.sha256, None)

    def forget(self, job: Job) -> None:
        """Remove the copies of a job's tables."""
        for entry in job.output.manifest.tables.values() if job.output else ():
            with self._lock:
                if self._tables.pop(entry.sha256, None) is not None:
                    self._path(entry.sha256).unlink(missing_ok=True)

    @property
    def size(self) -> int:
        """Bytes of all copies."""
        with self._lock:
            return sum(table.size for table in self._tables.values())

    def _known(self, entry: TableEntry) -> StoredTable | None:
        with self._lock:
            table = self._tables.get(entry.sha256)
            if table is not None:
                self._tables.move_to_end(entry.sha256)
            return table

    def _keep(self, entry: TableEntry, table: StoredTable) -> None:
        with self._lock:
            self._tables[entry.sha256] = table
            size = sum(table.size for table in self._tables.values())
            while size > self._max_bytes:
                digest, oldest = self._tables.popitem(last=False)
                self._path(digest).unlink(missing_ok=True)  # who reads it now reads on: it is mapped
                size -= oldest.size

    def _fetch(self, uri: str, name: str, entry: TableEntry) -> StoredTable:
        from services.influence.stored_table import TableCorrupt, convert

        with tempfile.TemporaryDirectory(dir=self._folder) as scratch:
            parquet, arrow = Path(scratch, "table.parquet"), Path(scratch, "table.arrow")
            try:
                self._download(uri, parquet, entry)
                table = convert(name, parquet, arrow, rows=entry.rows)
                arrow.replace(self._path(entry.sha256))  # it is mapped already: its name does not matter
            except TableCorrupt as error:
                raise corrupt(uri, str(error)) from error
            except OSError as error:
                raise ServiceError("RESOURCE_PROBLEM", f"{uri} cannot be copied to this machine: {error}") from error
        return table

    def _download(self, uri: str, path: Path, entry: TableEntry) -> None:
        try:
            self._store.download(uri, path, max_bytes=self._max_table_bytes, sha256=entry.sha256)
        except ServiceError as error:
            if error.reason == "OBJECT_NOT_FOUND":
                raise corrupt(uri, "MANIFEST.json names it, but it is gone") from error
            if error.reason in {"OBJECT_DIGEST_MISMATCH", "OBJECT_CHANGED"}:
                raise corrupt(uri, f"its sha256 is not {entry.sha256}, as MANIFEST.json says") from error
            raise

    def _path(self, sha256: str) -> Path:
        return self._folder / f"{sha256}.arrow"


def table_entry(job: Job, name: str) -> TableEntry:
    """What MANIFEST.json says of a table of a job that succeeded. Raises TABLE_NOT_FOUND."""
    if job.output is None:
        raise ValueError(f"{job.name} has no output")
    tables = job.output.manifest.tables
    if name not in tables:
        raise ServiceError(
            "TABLE_NOT_FOUND",
            f"{job.name} is a {job.spec.kind} job and has no table {name}; it has {', '.join(sorted(tables))}",
            name=job.name,
            table=name,
        )
    return tables[name]
