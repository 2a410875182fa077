"""What every stage of a job works with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from services.common.storage.base import ObjectStore
from services.influence.spec import JobRequest
from services.influence.worker.cancellation import Cancellation
from services.influence.worker.progress import JobProgress
from services.influence.worker.settings import WorkerSettings
from services.influence.worker.totals import JobTotals


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job that runs.

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
