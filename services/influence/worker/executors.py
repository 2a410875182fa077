"""The executor that a job's settings name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from services.influence.worker.executor import Executor, InProcessExecutor
from services.influence.worker.workplace import Workplace


@contextmanager
def open_executor(place: Workplace, *, known: NDArray[np.void]) -> Iterator[Executor]:
    """Open it.

    Args:
        place: This process, where shards are worked on unless the settings say otherwise.
        known: Sorted sha256 of the images that have features; other processes are told.
    """
    if place.job.settings.executor == "process":
        yield InProcessExecutor(place)
        return
    from services.influence.worker.ray_executor import RayExecutor  # Ray is an extra

    yield RayExecutor(place, known=known)
