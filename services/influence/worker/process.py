"""The process of one job, as its parent sees it.

    <job folder>/job.json    what is asked for (JobRequest); written by the parent
    <job folder>/lock        held for the life of the process, so that two attempts never overlap
    <job folder>/scratch/    of this process alone; gone at its end

Standard output carries messages (services/influence/messages.py), one JSON object a line; standard error carries logs.
SIGTERM cancels. Standard input at its end means that the parent is dead: the process ends at once. Exit codes: 0 after
a last message of whatever kind, EXIT_ORPHANED when the parent is gone.
"""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path
from typing import NoReturn

from services.common.settings import StorageSettings
from services.common.telemetry import configure_logging
from services.common.traceparent import TraceParent
from services.common.tracing import NoTracing, Tracing, open_tracing
from services.influence.messages import CancelledMessage
from services.influence.spec import JobRequest
from services.influence.worker.cancellation import Cancellation, Cancelled, cancel_on_sigterm
from services.influence.worker.failure import failure_of
from services.influence.worker.job_store import open_job_store
from services.influence.worker.lock import take_lock
from services.influence.worker.mailbox import Mailbox
from services.influence.worker.outbox import LastMessage, Outbox
from services.influence.worker.parent import on_parent_death
from services.influence.worker.settings import WorkerSettings

JOB_JSON = "job.json"
SCRATCH_NAME = "scratch"
EXIT_ORPHANED = 75
TRACES_S = 2.0
"""For the last spans to be sent: a collector that is away holds nobody up for longer."""


class JobProcess:
    """This process, for the job in a folder.

    Args:
        folder: The job's folder.
        outbox: Takes messages. None: standard output, and the other end of standard input is the parent's.
        disposable: The folder is of this process alone, and goes with it.
    """

    def __init__(self, folder: Path, *, outbox: Mailbox | None = None, disposable: bool = False) -> None:
        self._folder = folder
        self._scratch = folder / SCRATCH_NAME
        self._has_parent = outbox is None
        self._outbox: Outbox | Mailbox = outbox or Outbox()
        self._disposable = disposable
        self._cancellation = Cancellation()
        self._tracing: Tracing = NoTracing()
        self._holds_lock = False

    def run(self) -> NoReturn:
        """Run the job, send its last message, end the process."""
        configure_logging(fields={"job_uid": self._folder.name})
        if self._has_parent:
            on_parent_death(lambda: self._leave(EXIT_ORPHANED))
        cancel_on_sigterm(self._cancellation, force=self._force_cancel)
        message = self._outcome()
        if not self._cancellation.end():
            threading.Event().wait()  # the thread of SIGTERM is about to end the process
        try:
            self._outbox.send(message)
        except BrokenPipeError:
            self._leave(EXIT_ORPHANED)
        self._tracing.close(timeout_s=TRACES_S)
        self._leave(0)

    def _outcome(self) -> LastMessage:
        try:
            settings, storage = WorkerSettings(), StorageSettings()
            take_lock(self._folder, timeout_s=settings.lock_timeout_s, check=self._cancellation.check)
            self._holds_lock = True
            request = JobRequest.model_validate_json((self._folder / JOB_JSON).read_bytes())
            _configure_logging(request, storage)
            self._tracing = open_tracing("eif-influence-job", os.environ)
            from services.influence.worker.stages import run_job  # torch, seconds: after the lock and the watchers

            return run_job(
                request,
                store=open_job_store(storage, request, settings, check=self._cancellation.check),
                settings=settings,
                scratch=self._scratch,
                send=self._outbox.send,
                cancellation=self._cancellation,
                tracing=self._tracing,
            )
        except Cancelled:
            return CancelledMessage()
        except Exception as error:  # noqa: BLE001  # the boundary of the process: every error becomes its last message
            return failure_of(error)

    def _force_cancel(self) -> None:
        self._outbox.send(CancelledMessage(), timeout_s=1.0)
        self._leave(0)

    def _leave(self, code: int) -> NoReturn:
        """End at once: threads may be inside a computation or a stalled read, and are not waited for."""
        if self._holds_lock:  # or the folder belongs to another attempt
            shutil.rmtree(self._folder if self._disposable else self._scratch, ignore_errors=True)
        os._exit(code)


def _configure_logging(request: JobRequest, storage: StorageSettings) -> None:
    """From here on every line says whose it is."""
    place = TraceParent.parse(request.traceparent)
    ids = {"job_uid": request.uid, "trace_id": place.trace_id if place else None}
    configure_logging(fields=ids, secrets=storage.secrets())
