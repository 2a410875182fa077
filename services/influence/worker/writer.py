"""Results into the object store: tables and files first, MANIFEST.json last. Without it there is no result."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from services.common.errors import ServiceError
from services.influence.messages import SucceededMessage
from services.influence.result_manifest import FileEntry, ResultManifest, manifest_uri, result_folder
from services.influence.worker.job import Job
from services.influence.worker.table_file import TableFile

MAX_MANIFEST_BYTES = 1 << 20
PROBE_NAME = ".probe"


def existing_result(job: Job) -> SucceededMessage | None:
    """The result that an older attempt has left complete, if it has."""
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
    """Upload the tables and files, then MANIFEST.json, unless an attempt was faster: then its result counts.

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
    folder = result_folder(request.output_uri_prefix, request.uid)
    for path in [*(table.path for table in tables), *files]:
        job.cancellation.check()
        job.store.put(f"{folder}/{path.name}", path)
    manifest = ResultManifest(
        name=request.name,
        uid=request.uid,
        attempt=request.attempt,
        kind=request.spec.kind,
        tables={table.name: table.entry() for table in tables},
        figures=dict(figures),
        provenance=dict(provenance),
        files={path.name: _file_entry(path) for path in files},
    )
    data = manifest.model_dump_json(indent=2).encode()
    uri = manifest_uri(request.output_uri_prefix, request.uid)
    job.cancellation.commit()
    try:
        job.store.put(uri, data, if_absent=True)
    except ServiceError as error:
        if error.reason == "OBJECT_EXISTS" and (older := existing_result(job)):
            return older
        raise
    return SucceededMessage(manifest_uri=uri, manifest_sha256=hashlib.sha256(data).hexdigest())


def _file_entry(path: Path) -> FileEntry:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileEntry(file=path.name, sha256=digest, bytes=path.stat().st_size)
