"""Where a shard is worked on: a process that has the model of the job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from services.influence.worker.feature_shard import Digests, Features
from services.influence.worker.inputs import JobModel
from services.influence.worker.job import Job


def _nothing(_count: int) -> None:
    """Nobody follows the progress of a shard here."""


def _forget(_digests_N: Digests, _features_NF: Features) -> None:
    """What is computed here is stored with the whole shard."""


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """What the work on a shard uses.

    Attributes:
        job: The job, with a scratch folder of this process.
        model: Its model, on the device of this process.
        known: Tells which images, by the sha256 of each (n, 32), have features already.
        keep: Takes new features as they come.
        advance: Takes the number of samples of the shard that are done.
    """

    job: Job
    model: JobModel
    known: Callable[[Digests], NDArray[np.bool_]]
    keep: Callable[[Digests, Features], None] = field(default=_forget)
    advance: Callable[[int], None] = field(default=_nothing)

    @property
    def feature_folder(self) -> str:
        """URI of the folder of stored features of this model."""
        return f"{self.job.cache_folder}/{self.model.cache_key}"
