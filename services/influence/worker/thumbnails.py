"""Small pictures of samples for the report, read from the object store once more: only those that are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing

from services.common.samples import read_samples
from services.influence.worker.job import Job
from services.influence.worker.report.thumbnails import thumbnail
from services.influence.worker.split import Split

Key = tuple[str, str]
"""Split (`train` or `test`) and sample id."""


class Thumbnails:
    """JPEGs of samples by split and id; what cannot be read any more is left out.

    Args:
        job: The job.
        splits: Its splits.
    """

    def __init__(self, job: Job, splits: Sequence[Split]) -> None:
        self._job = job
        self._splits = {split.name: split for split in splits}
        self._rows = {
            split.name: {sample_id: row for row, sample_id in enumerate(split.sample_ids)} for split in splits
        }

    def __call__(self, keys: Sequence[Key]) -> Mapping[Key, bytes]:
        """Raises STORAGE_UNAVAILABLE."""
        found: dict[Key, bytes] = {}
        wanted = [key for key in dict.fromkeys(keys) if key[1] in self._rows.get(key[0], {})]
        samples = (self._splits[split].sample(self._rows[split][sample_id]) for split, sample_id in wanted)
        reads = read_samples(
            self._job.store, samples, workers=self._job.settings.read_threads, scratch=self._job.scratch
        )
        with closing(reads) as images:
            for key, (_, data) in zip(wanted, images, strict=True):
                self._job.cancellation.check()
                if isinstance(data, bytes) and (small := thumbnail(data)) is not None:
                    found[key] = small
        return found
