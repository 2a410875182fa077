"""Results into the object store: tables and files first, MANIFEST.json last and once. Without it there is no result.

Each attempt writes under names of its own: one that was given up and wakes up later can neither replace the files of
a result nor publish a second one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from services.common.errors import ServiceError
from services.influence.messages import SucceededMessage
from services.influence.result_manifest import (
    FileEntry,
    ResultManifest,
    TableEntry,
    attempt_file,
    manifest_uri,
    result_folder,
)
from services.influence.worker.job import Job
from services.influence.worker.table_file import TableFile

MAX_MANIFEST_BYTES = 1 << 20
PROBE_NAME = ".probe"


def existing_result(job: Job) -> SucceededMessage | None:
    """The result that an older attempt has left complete, if it has."""
    data = _existing_manifest(job)
    if data is None:
        return None
    uri = manifest_uri(job.request.output_uri_prefix, job.request.uid)
    return SucceededMessage(manifest_uri=uri, manifest_sha256=hashlib.sha256(data).hexdigest())


def require_writable(job: Job) -> None:
    """Find out now, and not after hours of work, that results cannot be written. Raises STORAGE_DENIED and others."""
    uri = f"{result_folder(job.request.output_uri_prefix, job.request.uid)}/{PROBE_NAME}"
    job.store.put(uri, b"")
    job.store.delete(uri)


def publish(
    job: Job,
    tables: Sequence[TableFile],
    *,
    figures: Mapping[str, float],
    provenance: Mapping[str, str],
    files: Sequence[Path] = (),
) -> SucceededMessage:
    """Upload the tables and files, then MANIFEST.json, unless another attempt was faster: then its result counts.

    Args:
        job: The job.
        tables: Closed.
        figures: Of MANIFEST.json.
        provenance: Of MANIFEST.json.
        files: What else the result has, such as a report or pictures; kept under their bare names.

    Raises:
        Cancelled: The job was told to stop before the manifest was on its way.
        ServiceError: Those of the store.
    """
    request = job.request
    paths = [*(table.path for table in tables), *files]
    for path in paths:
        job.cancellation.check()
        job.store.put(_uri_of(job, path.name), path)
    manifest = ResultManifest(
        name=request.name,
        uid=request.uid,
        attempt=request.attempt,
        kind=request.spec.kind,
        tables={table.name: _table_entry(job, table) for table in tables},
        figures=dict(figures),
        provenance=dict(provenance),
        files={path.name: _file_entry(job, path) for path in files},
    )
    data = manifest.model_dump_json(indent=2).encode()
    uri = manifest_uri(request.output_uri_prefix, request.uid)
    job.cancellation.commit()
    try:
        job.store.put(uri, data, if_absent=True)
    except ServiceError as error:
        if error.reason == "OBJECT_EXISTS" and (winner := existing_result(job)):
            _withdraw(job, paths)
            return winner
        raise
    return SucceededMessage(manifest_uri=uri, manifest_sha256=hashlib.sha256(data).hexdigest())


def _existing_manifest(job: Job) -> bytes | None:
    uri = manifest_uri(job.request.output_uri_prefix, job.request.uid)
    try:
        data = job.store.read(uri, max_bytes=MAX_MANIFEST_BYTES)
    except ServiceError as error:
        if error.reason == "OBJECT_NOT_FOUND":
            return None
        raise
    try:
        ResultManifest.model_validate_json(data)
    except ValidationError as error:
        raise ServiceError(
            "RESULT_CORRUPT", f"{uri} is there already, but is not the manifest of a result", uri=uri
        ) from error
    return data


def _withdraw(job: Job, paths: Sequence[Path]) -> None:
    """Remove what this attempt has uploaded for nothing. What cannot be removed goes with the job."""
    data = _existing_manifest(job)
    if data is None or ResultManifest.model_validate_json(data).attempt == job.request.attempt:
        return
    for path in paths:
        with suppress(ServiceError):
            job.store.delete(_uri_of(job, path.name))


def _uri_of(job: Job, name: str) -> str:
    folder = result_folder(job.request.output_uri_prefix, job.request.uid)
    return f"{folder}/{attempt_file(job.request.attempt, name)}"


def _table_entry(job: Job, table: TableFile) -> TableEntry:
    entry = table.entry()
    return entry.model_copy(update={"file": attempt_file(job.request.attempt, entry.file)})


def _file_entry(job: Job, path: Path) -> FileEntry:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    name = attempt_file(job.request.attempt, path.name)
    return FileEntry(file=name, sha256=digest, bytes=path.stat().st_size)
