"""A shard in a task of a Ray cluster: a process on any node, which finds data and model in the object store."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eif_engine.errors import InvalidInput
from eif_engine.models.devices import torch_device
from services.common.settings import StorageSettings
from services.common.storage.metered import MeteredStore
from services.common.telemetry import configure_logging
from services.influence.messages import FailedMessage, TotalsMessage
from services.influence.spec import Artifact, JobRequest
from services.influence.worker.cancellation import Cancellation, Cancelled
from services.influence.worker.executor import ResultT, ShardT
from services.influence.worker.failure import failure_of
from services.influence.worker.feature_shard import Digests
from services.influence.worker.inputs import JobModel, fetch_model
from services.influence.worker.job import Job
from services.influence.worker.job_store import open_job_store
from services.influence.worker.progress import JobProgress
from services.influence.worker.scratch import scratch_folder
from services.influence.worker.settings import WorkerSettings
from services.influence.worker.totals import JobTotals
from services.influence.worker.workplace import Workplace


@dataclass(frozen=True, kw_only=True)
class TaskContext:
    """What all tasks of a job have in common; sent once.

    Attributes:
        request: The JobRequest, as JSON.
        model_sha256: Of model.json: every task has the very model that the job has.
        device: Kind of device.
    """

    request: str
    model_uri: str
    model_sha256: str
    device: str


@dataclass(frozen=True, kw_only=True)
class TaskFailure:
    """A shard that failed with an error, and not by the death of its process.

    Attributes:
        failure: The error.
        final: Another try, elsewhere, would end the same way.
    """

    failure: FailedMessage
    final: bool


@dataclass(frozen=True, kw_only=True)
class TaskOutcome:
    """What comes back from a task.

    Attributes:
        result: Of the shard, or why there is none.
        totals: What the task asked of the object store.
    """

    result: Any
    totals: TotalsMessage


_MODEL: dict[TaskContext, JobModel] = {}
"""The model that this process has loaded: a process works on many shards of one job."""


def work_on_shard(
    context: TaskContext,
    known: NDArray[np.void],
    function: Callable[[Workplace, ShardT], ResultT],
    shard: ShardT,
) -> TaskOutcome:
    """Work on a shard in this process; the result has its large parts in the object store."""
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    totals = JobTotals()

    def work() -> ResultT:
        with _workplace(context, known, totals) as place:
            return function(place, shard).put_away(place)

    return TaskOutcome(result=attempt(work), totals=totals.message())


def attempt(work: Callable[[], ResultT]) -> ResultT | TaskFailure:
    """Try to work on a shard: errors travel as plain data. Raises Cancelled."""
    try:
        return work()
    except Cancelled:
        raise
    except Exception as error:  # noqa: BLE001  # the boundary of a shard: whatever breaks it counts as a try
        return TaskFailure(failure=failure_of(error), final=isinstance(error, InvalidInput))


@contextmanager
def _workplace(context: TaskContext, known: NDArray[np.void], totals: JobTotals) -> Iterator[Workplace]:
    request = JobRequest.model_validate_json(context.request)
    storage, settings = StorageSettings(), WorkerSettings()
    configure_logging(fields={"job_uid": request.uid}, secrets=storage.secrets())
    with scratch_folder() as folder:
        job = Job(
            request=request,
            store=MeteredStore(open_job_store(storage, request, settings, check=_nothing), totals.record),
            settings=settings,
            scratch=folder,
            progress=JobProgress((), send=lambda _message: None, check=_nothing),
            cancellation=Cancellation(),
            totals=totals,
        )
        with job:
            yield Workplace(job=job, model=_model(job, context), known=_finder(known))


def _nothing() -> None:
    """A cluster ends the process of a task that is not wanted any more."""


def _model(job: Job, context: TaskContext) -> JobModel:
    if context not in _MODEL:
        _MODEL.clear()
        artifact = Artifact(uri=context.model_uri, sha256=context.model_sha256)
        _MODEL[context] = fetch_model(job, artifact, torch_device(context.device))
    return _MODEL[context]


def _finder(known: NDArray[np.void]) -> Callable[[Digests], NDArray[np.bool_]]:
    def find(digests_N: Digests) -> NDArray[np.bool_]:
        keys = np.ascontiguousarray(digests_N).view(known.dtype).ravel()
        if not len(known):
            return np.zeros(len(keys), dtype=np.bool_)
        found: NDArray[np.bool_] = known[np.searchsorted(known, keys).clip(max=len(known) - 1)] == keys
        return found

    return find
