"""The object store as a job may use it."""

from __future__ import annotations

from collections.abc import Callable

from services.common.settings import StorageSettings
from services.common.storage.base import ObjectStore
from services.common.storage.confined import ConfinedStore
from services.common.storage.router import open_store
from services.influence.result_manifest import result_folder
from services.influence.spec import JobRequest
from services.influence.worker.patient_store import PatientStore
from services.influence.worker.settings import WorkerSettings


def open_job_store(
    storage: StorageSettings, request: JobRequest, settings: WorkerSettings, *, check: Callable[[], None]
) -> ObjectStore:
    """The store, which is waited for while it is away.

    It is confined to the places of the job's project and to what the job itself writes and was pointed to:
    what a manifest names is read with the rights of this service, so it must not lead out of the project.

    Args:
        storage: Where it is.
        request: What is asked for.
        settings: Of the job.
        check: Called while the store is waited for; what it raises ends the wait.
    """
    store = PatientStore(open_store(storage), patience_s=settings.storage_patience_s, check=check)
    if request.places is None:
        return store
    prefix = request.output_uri_prefix
    folders = [result_folder(prefix, request.uid), settings.cache_uri_prefix or f"{prefix.rstrip('/')}/cache"]
    if request.referred is not None:
        folders.append(request.referred.uri.rpartition("/")[0])
    return ConfinedStore(store, (*request.places, *(f"{folder.rstrip('/')}/" for folder in folders)))
