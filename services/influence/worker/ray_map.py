"""One map of shards over the tasks of a cluster, under way.

Ray is told not to try again by itself: it does so for ever when a node is short of memory, and never for an error of
the code. Here a try counts whatever became of it: an error, a process that died, a node that was lost.

The processes of jobs hold a place on the cluster too. Where they hold all of them no task would ever begin, so a map to
which nothing comes back from a cluster without a free place works on its shards itself.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import RayError

from services.influence.messages import FailedMessage
from services.influence.worker.executor import TRIES, Shard, ShardT, poisoned
from services.influence.worker.ray_task import TaskContext, TaskFailure, attempt, work_on_shard
from services.influence.worker.workplace import Workplace

_WAIT_S = 0.2
_LONELY_S = 30.0
"""After so long without anything from the cluster it is looked at for a free place."""

_ALONE = threading.Event()
"""Set while this process works alone: its next map need not wait to find out."""

_AHEAD = 4
"""Results wait for that of an earlier shard: of so many times the shards in flight at most."""

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class _Flight:
    """A shard on its way."""

    number: int
    shard: Any
    tries: int = 0


class RayMap:
    """A map.

    Args:
        place: This process.
        context: What all tasks have in common.
        known: Sorted sha256 of the images that have features.
        function: Works on a shard.
        gpu: Each task takes a GPU, beside its CPU.
    """

    def __init__(
        self,
        place: Workplace,
        context: TaskContext,
        known: NDArray[np.void],
        function: Callable[[Workplace, Any], Any],
        *,
        gpu: bool,
    ) -> None:
        self._place, self._function = place, function
        self._taken = ("CPU", "GPU") if gpu else ("CPU",)
        self._job, self._totals = place.job, place.job.totals
        self._in_flight = place.job.settings.shards_in_flight
        self._arguments = ray.put(context), ray.put(known), ray.put(function)  # they travel once
        self._task: Any = ray.remote(num_cpus=1, num_gpus=int(gpu), max_retries=0)(work_on_shard)
        self._waiting: deque[_Flight] = deque()
        self._flights: dict[ray.ObjectRef[Any], _Flight] = {}
        self._done: dict[int, Any] = {}
        self._landed_at = time.monotonic() - (_LONELY_S if _ALONE.is_set() else 0.0)

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
            self._flights[self._task.remote(*self._arguments, flight.shard)] = flight

    def _land(self) -> None:
        """Wait a moment for a shard, and take what has come."""
        self._job.cancellation.check()
        ready, _ = ray.wait(list(self._flights), num_returns=1, timeout=_WAIT_S)
        for ref in ready:
            self._landed_at = time.monotonic()
            _ALONE.clear()
            self._take(self._flights.pop(ref), self._outcome(ref))
        if time.monotonic() - self._landed_at > _LONELY_S and not _has_room(self._taken):
            self._work_here()

    def _outcome(self, ref: ray.ObjectRef[Any]) -> Any:  # noqa: ANN401  of any kind of shard
        try:
            found = ray.get(ref)
        except RayError as error:
            return TaskFailure(failure=_lost(error), final=False)
        self._totals.add(found.totals)
        return found.result

    def _work_here(self) -> None:
        """Work on a shard: at first on the one that would be the last to get a place, as tasks may only be slow.

        When still nothing has come after that no task has begun, and the next in order is what helps most.
        """
        ref = next(iter(self._flights) if _ALONE.is_set() else reversed(self._flights))
        flight = self._flights.pop(ref)
        logger.info("the cluster has no room: %s is worked on here", flight.shard.name)
        ray.cancel(ref)
        _ALONE.set()
        self._take(flight, attempt(lambda: self._function(self._place, flight.shard)))

    def _take(self, flight: _Flight, result: Any) -> None:  # noqa: ANN401  of any kind of shard
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


def _has_room(taken: Iterable[str]) -> bool:
    """Whether a task could begin now: not all is held by other tasks and by processes of jobs."""
    free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]  # Ray's has no types
    return all(free.get(name, 0.0) >= 1 for name in taken)


def _lost(error: RayError) -> FailedMessage:
    """A process or a node that died under a shard. What Ray says of it goes to the log alone: it names machines."""
    logger.warning("a task was lost: %s", str(error)[:2000])
    return FailedMessage(
        reason="WORKER_CRASHED",
        message=f"the process that worked on it was lost ({type(error).__name__}); the logs of the cluster say more",
    )
