"""The process of a job whose folder lies in the object store: on a machine that shares nothing else with its server."""

from __future__ import annotations

from typing import NoReturn

from services.common.settings import StorageSettings
from services.common.storage.router import open_store
from services.common.telemetry import configure_logging
from services.influence.run_folder import RunFolder
from services.influence.worker.mailbox import Mailbox
from services.influence.worker.patient_store import PatientStore
from services.influence.worker.process import JOB_JSON, JobProcess
from services.influence.worker.scratch import scratch_folder
from services.influence.worker.settings import WorkerSettings


def run_remote(uri: str) -> NoReturn:
    """Run the job of a run folder. Whoever started this process sees to it that there is one of it."""
    storage = StorageSettings()
    configure_logging(secrets=storage.secrets())
    store = open_store(storage)
    patient = PatientStore(store, patience_s=WorkerSettings().storage_patience_s, check=_nothing)
    asked = RunFolder(patient, uri)
    asked.note_start()
    with scratch_folder() as folder:
        (folder / JOB_JSON).write_bytes(asked.read_request())
        JobProcess(folder, outbox=Mailbox(RunFolder(store, uri)), disposable=True).run()


def _nothing() -> None:
    """Until there is a job, SIGTERM waits."""
