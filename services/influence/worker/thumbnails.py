"""Small pictures of samples for the report: kept from an earlier audit, or read from the object store once more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np

from eif_engine.types import Quarantined, Sample
from services.influence.worker.features import SplitFeatures
from services.influence.worker.job import Job
from services.influence.worker.kept import Kept
from services.influence.worker.kept_thumbnails import KeptThumbnails
from services.influence.worker.report.thumbnails import thumbnail
from services.influence.worker.split import Split

Key = tuple[str, str]
"""Split (`train` or `test`) and sample id."""


class Thumbnails:
    """JPEGs of samples by split and id; what cannot be read any more is left out.

    Args:
        job: The job.
        splits: Its splits.
        features: Of each split, in their order: they know the digests of images.
    """

    def __init__(self, job: Job, splits: Sequence[Split], features: Sequence[SplitFeatures]) -> None:
        self._job = job
        self._kept = KeptThumbnails(Kept(job.store, f"{job.cache_uri}/thumbnails"), job.request.output_uri_prefix)
        self._features = {split.name: each for split, each in zip(splits, features, strict=True)}
        self._splits = {split.name: split for split in splits}
        self._rows = {
            split.name: {sample_id: row for row, sample_id in enumerate(split.sample_ids)} for split in splits
        }

    def __call__(self, keys: Sequence[Key]) -> Mapping[Key, bytes]:
        """Raises STORAGE_UNAVAILABLE."""
        shown = [key for key in dict.fromkeys(keys) if key[1] in self._rows.get(key[0], {})]
        digests = {key: digest for key in shown if (digest := self._digest(key))}
        known = {key: small for key, digest in digests.items() if (small := self._kept.get(digest))}
        made = self._made([key for key in shown if key not in known])
        for key in made.keys() & digests.keys():
            self._kept.add(digests[key], made[key])
        return known | made

    def store(self) -> None:
        """Keep those that were asked for, for the next audit. Raises STORAGE_UNAVAILABLE."""
        self._kept.store()

    def _digest(self, key: Key) -> bytes:
        """Of the image; empty where it is not known."""
        found = self._features[key[0]]
        row = self._rows[key[0]][key[1]]
        place = int(np.searchsorted(found.rows, row))
        if place == len(found.rows) or found.rows[place] != row or not found.digest_NB[place].any():
            return b""
        digest: bytes = found.digest_NB[place].tobytes()
        return digest

    def _made(self, wanted: Sequence[Key]) -> dict[Key, bytes]:
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
