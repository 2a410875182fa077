"""What every stage of a job works with."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

from services.common.storage.base import ObjectStore
from services.influence.spec import JobRequest
from services.influence.worker.cancellation import Cancellation
from services.influence.worker.job_images import JobImages
from services.influence.worker.progress import JobProgress
from services.influence.worker.settings import WorkerSettings
from services.influence.worker.totals import JobTotals


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job that runs. Used in a `with`: its end lets go of what it holds open.

    Attributes:
        request: What is asked for.
        store: The object store.
        settings: What it may use.
        scratch: A folder of its own, emptied before and after.
        progress: Takes its stages.
        cancellation: Whether it is told to stop.
        totals: Takes what it does.
    """

    request: JobRequest
    store: ObjectStore
    settings: WorkerSettings
    scratch: Path
    progress: JobProgress
    cancellation: Cancellation
    totals: JobTotals = field(default_factory=JobTotals)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.images.close()

    @cached_property
    def images(self) -> JobImages:
        """Images of samples."""
        return JobImages(self.store, workers=self.settings.read_threads, scratch=self.scratch)

    @property
    def cache_uri(self) -> str:
        """Under which what later jobs can use is kept."""
        prefix = self.settings.cache_uri_prefix or f"{self.request.output_uri_prefix.rstrip('/')}/cache"
        return prefix.rstrip("/")

    @property
    def cache_folder(self) -> str:
        """URI of the folder under which features of all models are kept."""
        return f"{self.cache_uri}/features"

    @property
    def scores_folder(self) -> str:
        """URI of the folder under which scores of large jobs are kept."""
        return f"{self.cache_folder.removesuffix('/features')}/scores"
