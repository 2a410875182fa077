"""Where the shards of a stage are worked on: one after the other in this process, or elsewhere, many at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable
from typing import Protocol, Self, TypeVar

from eif_engine.errors import EifError
from services.common.errors import STATUS_BY_REASON, ServiceError
from services.influence.messages import FailedMessage
from services.influence.worker.cancellation import Cancelled
from services.influence.worker.failure import failure_of
from services.influence.worker.job import Job
from services.influence.worker.workplace import Workplace

TRIES = 3
"""Of a shard, before the job fails with its error."""

logger = logging.getLogger(__name__)


class Shard(Protocol):
    """A part of a stage's work that needs no other part."""

    @property
    def name(self) -> str:
        """For people."""
        ...


class ShardResult(Protocol):
    """What comes out of a shard. It may be large: between machines it goes by way of the object store."""

    def put_away(self, place: Workplace) -> Self:
        """The same with its large parts in the object store, where it was made."""
        ...

    def bring_back(self, job: Job) -> Self:
        """The same with its large parts, verified, where it is needed. Raises those of the store."""
        ...


ShardT = TypeVar("ShardT", bound=Shard)
ResultT = TypeVar("ResultT", bound=ShardResult)


class Executor(Protocol):
    """Works on shards. What comes out depends on neither the executor nor the number or the size of the shards."""

    def map(
        self, function: Callable[[Workplace, ShardT], ResultT], shards: Iterable[ShardT], *, count: int
    ) -> Generator[ResultT, None, None]:
        """Results in the order of the shards.

        Args:
            function: Of a module, so that other processes find it; it may be called more than once for a shard.
            shards: Independent of each other; taken as they are needed.
            count: How many there are.

        Raises:
            EifError: A shard failed for a reason that another try does not mend, or TRIES times.
            Cancelled: The job was told to stop.
        """
        ...


class InProcessExecutor:
    """Works here.

    Args:
        place: Where.
    """

    def __init__(self, place: Workplace) -> None:
        self._place = place

    def map(
        self, function: Callable[[Workplace, ShardT], ResultT], shards: Iterable[ShardT], *, count: int
    ) -> Generator[ResultT, None, None]:
        totals = self._place.job.totals
        for number, shard in enumerate(shards):
            totals.shards(pending=count - number - 1, running=1)
            yield self._work(function, shard)
        totals.shards(pending=0, running=0)

    def _work(self, function: Callable[[Workplace, ShardT], ResultT], shard: ShardT) -> ResultT:
        """Errors with a reason are final: what they need, such as a store that is away, was waited for already."""
        totals = self._place.job.totals
        for attempt in range(1, TRIES + 1):
            try:
                result = function(self._place, shard)
            except (EifError, MemoryError, OSError, Cancelled):
                totals.shard_attempt("failed")
                raise
            except Exception as error:  # noqa: BLE001  # whatever a model's own code raises
                totals.shard_attempt("failed" if attempt == TRIES else "retried")
                failure = failure_of(error)
                logger.warning("%s failed, try %d of %d: %s", shard.name, attempt, TRIES, failure.message)
            else:
                totals.shard_attempt("succeeded")
                return result
        raise poisoned(shard, failure)


def poisoned(shard: Shard, failure: FailedMessage, *, tries: int = TRIES) -> ServiceError:
    """The end of a job for which one shard fails as often as it is tried."""
    if tries == 1:
        return ServiceError(failure.reason, failure.message, **failure.metadata)
    reason = failure.reason if failure.reason in STATUS_BY_REASON else "INTERNAL"
    metadata = {**failure.metadata, "shard": shard.name}
    return ServiceError(reason, f"{shard.name} failed {tries} times: {failure.message}", **metadata)
