"""What a scripted job does in an object store on S3: with the store, the patience and the writer of a real one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from services.common.settings import StorageSettings
from services.influence.messages import SucceededMessage
from services.influence.spec import JobRequest
from services.influence.tables import TableEntry
from services.influence.worker.cancellation import Cancellation
from services.influence.worker.job import Job
from services.influence.worker.job_store import open_job_store
from services.influence.worker.progress import JobProgress
from services.influence.worker.settings import WorkerSettings
from services.influence.worker.table_file import TableFile
from services.influence.worker.writer import existing_result, publish

MAX_SCRIPT_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class WrittenTable:
    """A table that was written before the job was created."""

    name: str
    path: Path
    rows: int

    def entry(self) -> TableEntry:
        """As TableFile.entry."""
        data = self.path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        return TableEntry(file=self.path.name, sha256=digest, rows=self.rows, bytes=len(data))


class RemoteJob:
    """A job on S3.

    Args:
        request: Its job.json.
        scratch: Of the job's own.
    """

    def __init__(self, request: dict[str, Any], scratch: Path) -> None:
        parsed, settings, cancellation = JobRequest.model_validate(request), WorkerSettings(), Cancellation()
        self._job = Job(
            request=parsed,
            store=open_job_store(StorageSettings(), parsed, settings, check=cancellation.check),
            settings=settings,
            scratch=scratch,
            progress=JobProgress((), send=lambda _message: None, check=cancellation.check),
            cancellation=cancellation,
        )

    def script(self, uri: str) -> bytes:
        """Its steps. Raises those of the store."""
        return self._job.store.read(uri, max_bytes=MAX_SCRIPT_BYTES)

    def succeed(self, tables: dict[str, dict[str, Any]]) -> SucceededMessage:
        """Publish tables that were written before (`path`, `rows`). Raises those of the store."""
        if found := existing_result(self._job):
            return found
        written = [
            WrittenTable(name=name, path=Path(table["path"]), rows=table["rows"]) for name, table in tables.items()
        ]
        # The writer asks tables for name, path and entry alone.
        return publish(self._job, cast("list[TableFile]", written), figures={}, provenance={"device": "cpu"})
