"""Small pictures of samples for the report, read from the object store once more: only those that are shown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from eif_engine.types import Quarantined, Sample
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
        wanted = [key for key in dict.fromkeys(keys) if key[1] in self._rows.get(key[0], {})]
        samples = (self._splits[split].sample(self._rows[split][sample_id]) for split, sample_id in wanted)
        with ThreadPoolExecutor(self._job.settings.decode_threads, thread_name_prefix="thumbnails") as pool:
            made = {
                key: pool.submit(thumbnail, data)
                for key, (_, data) in zip(wanted, self._checked(samples), strict=True)
                if isinstance(data, bytes)
            }
        return {key: small for key, future in made.items() if (small := future.result()) is not None}

    def _checked(self, samples: Iterable[Sample]) -> Iterator[tuple[Sample, bytes | Quarantined]]:
        with closing(self._job.images.read(samples)) as reads:
            for found in reads:
                self._job.cancellation.check()
                yield found
