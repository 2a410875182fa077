"""Reads and removes what a job has written to the object store."""

from __future__ import annotations

import hashlib

from pydantic import ValidationError

from services.common.errors import ServiceError
from services.common.storage.base import ObjectStore
from services.influence.job import Job, JobOutput
from services.influence.result_manifest import ATTEMPT_PREFIX, ResultManifest

MAX_MANIFEST_BYTES = 16 << 20


def read_output(store: ObjectStore, job: Job) -> JobOutput | None:
    """The results of a job by its MANIFEST.json; None when there is none.

    Raises:
        ServiceError: RESULT_CORRUPT when it is not the manifest of this job, and those of the store.
    """
    try:
        data = store.read(job.manifest_uri, max_bytes=MAX_MANIFEST_BYTES)
    except ServiceError as error:
        if error.reason == "OBJECT_NOT_FOUND":
            return None
        raise
    try:
        manifest = ResultManifest.model_validate_json(data)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, problem["loc"]))
        raise corrupt(job.manifest_uri, f"it breaks its schema at {field or 'its start'}: {problem['msg']}") from error
    if manifest.uid != job.uid:
        raise corrupt(job.manifest_uri, f"it belongs to the job with uid {manifest.uid}")
    return JobOutput(manifest_sha256=hashlib.sha256(data).hexdigest(), manifest=manifest)


def delete_results(store: ObjectStore, job: Job) -> None:
    """Remove everything under the job's own folder, MANIFEST.json first: without it there is no result."""
    store.delete(job.manifest_uri)
    for item in list(store.list(f"{job.folder_uri}/")):
        store.delete(item.uri)


def remove_lost_attempts(store: ObjectStore, job: Job) -> None:
    """Remove the files of runs that were cut off: of an ended job, all that its MANIFEST.json does not name."""
    if job.output is not None and job.attempt == 1:
        return  # there was no other run
    manifest = job.output.manifest if job.output else None
    entries = [*manifest.tables.values(), *manifest.files.values()] if manifest else []
    named = {f"{job.folder_uri}/{entry.file}" for entry in entries}
    for item in list(store.list(f"{job.folder_uri}/{ATTEMPT_PREFIX}")):
        if item.uri not in named:
            store.delete(item.uri)


def corrupt(uri: str, why: str) -> ServiceError:
    """RESULT_CORRUPT that names the object."""
    return ServiceError("RESULT_CORRUPT", f"{uri} cannot be used: {why}; run the job again", uri=uri)
