"""Shards as tasks of the Ray cluster that the job runs on."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import replace

import numpy as np
import ray
from numpy.typing import NDArray

from services.influence.worker.executor import InProcessExecutor, ResultT, ShardT
from services.influence.worker.ray_map import RayMap
from services.influence.worker.ray_task import TaskContext
from services.influence.worker.workplace import Workplace


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
        check = self._place.job.cancellation.check
        here = replace(self._place, advance=lambda _done: check())  # only what is in order counts as progress
        yield from RayMap(here, _context(here), self._known, function, gpu=device == "cuda").run(shards, count)


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
