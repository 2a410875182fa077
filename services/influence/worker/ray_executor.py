"""Shards as tasks of the Ray cluster that the job runs on.

Ray is told not to try again by itself: it does so for ever when a node is short of memory, and never for an error of
the code. Here a try counts whatever became of it: an error, a process that died, a node that was lost.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import RayError

from services.influence.messages import FailedMessage
from services.influence.worker.executor import TRIES, InProcessExecutor, ResultT, Shard, ShardT, poisoned
from services.influence.worker.ray_task import TaskContext, TaskFailure, work_on_shard
from services.influence.worker.workplace import Workplace

_WAIT_S = 0.2
_AHEAD = 4
"""Results wait for that of an earlier shard: of so many times the shards in flight at most."""

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class _Flight:
    """A shard on its way."""

    number: int
    shard: Any
    tries: int = 0


class RayExecutor:
    """Gives shards to the cluster, a bounded number at a time.

    Args:
        place: This process. It holds a device of its own; where the cluster has no other, shards are worked on here.
        known: Sorted sha256 of the images that have features.
    """

    def __init__(self, place: Workplace, *, known: NDArray[np.void]) -> None:
        self._place, self._known = place, known

    def map(
        self, function: Callable[[Workplace, ShardT], ResultT], shards: Iterable[ShardT], *, count: int
    ) -> Generator[ResultT, None, None]:
        """As Executor.map."""
        _join_cluster()
        device = self._place.model.device.type
        if device == "cuda" and _gpus() < 2:
            yield from InProcessExecutor(self._place).map(function, shards, count=count)
            return
        yield from _Map(self._place, self._known, function, gpus=int(device == "cuda")).run(shards, count)


class _Map:
    """One map under way."""

    def __init__(
        self,
        place: Workplace,
        known: NDArray[np.void],
        function: Callable[[Workplace, Any], Any],
        *,
        gpus: int,
    ) -> None:
        self._job, self._totals = place.job, place.job.totals
        self._in_flight = place.job.settings.shards_in_flight
        self._function = ray.put(function)  # what it is bound to travels once
        self._context = ray.put(_context(place))
        self._known = ray.put(known)
        self._task: Any = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(work_on_shard)
        self._waiting: deque[_Flight] = deque()
        self._flights: dict[ray.ObjectRef[Any], _Flight] = {}
        self._done: dict[int, Any] = {}

    def run(self, shards: Iterable[ShardT], count: int) -> Iterator[Any]:
        """Results in order."""
        source = enumerate(shards)
        for number in range(count):
            while number not in self._done:
                self._launch(source, last=number + _AHEAD * self._in_flight)
                self._totals.shards(pending=count - number - len(self._done), running=len(self._flights))
                self._land()
            yield self._done.pop(number).bring_back(self._job)
        self._totals.shards(pending=0, running=0)

    def _launch(self, source: Iterator[tuple[int, ShardT]], *, last: int) -> None:
        while len(self._flights) < self._in_flight:
            if not self._waiting:
                self._waiting.extend(_Flight(number=number, shard=shard) for number, shard in _next(source))
            if not self._waiting or self._waiting[0].number > last:
                return
            flight = self._waiting.popleft()
            flight.tries += 1
            ref = self._task.remote(self._context, self._known, self._function, flight.shard)
            self._flights[ref] = flight

    def _land(self) -> None:
        """Wait a moment for a shard, and take what has come."""
        self._job.cancellation.check()
        ready, _ = ray.wait(list(self._flights), num_returns=1, timeout=_WAIT_S)
        for ref in ready:
            flight = self._flights.pop(ref)
            try:
                result = ray.get(ref)
            except RayError as error:
                result = TaskFailure(failure=_lost(error), final=False)
            if isinstance(result, TaskFailure):
                self._try_again(flight, result)
            else:
                self._totals.shard_attempt("succeeded")
                self._done[flight.number] = result

    def _try_again(self, flight: _Flight, outcome: TaskFailure) -> None:
        ends = outcome.final or flight.tries == TRIES
        self._totals.shard_attempt("failed" if ends else "retried")
        shard: Shard = flight.shard
        logger.warning("%s failed, try %d of %d: %s", shard.name, flight.tries, TRIES, outcome.failure.message)
        if ends:
            raise poisoned(shard, outcome.failure, tries=flight.tries)
        self._waiting.appendleft(flight)


def _next(source: Iterator[tuple[int, ShardT]]) -> Iterator[tuple[int, ShardT]]:
    """The next one, if there is any."""
    found = next(source, None)
    if found is not None:
        yield found


def _join_cluster() -> None:
    """Become a driver of the cluster whose address is in the environment. Logs stay where they are made."""
    if not ray.is_initialized():
        ray.init(address="auto", log_to_driver=False, configure_logging=False)


def _gpus() -> float:
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]  # Ray's has no types
    return resources.get("GPU", 0.0)


def _context(place: Workplace) -> TaskContext:
    model = place.model
    return TaskContext(
        request=place.job.request.model_dump_json(),
        model_uri=model.uri,
        model_sha256=model.sha256,
        device=model.device.type,
    )


def _lost(error: RayError) -> FailedMessage:
    """A process or a node that died under a shard. What Ray says of it goes to the log alone: it names machines."""
    logger.warning("a task was lost: %s", str(error)[:2000])
    return FailedMessage(
        reason="WORKER_CRASHED",
        message=f"the process that worked on it was lost ({type(error).__name__}); the logs of the cluster say more",
    )
