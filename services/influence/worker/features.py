"""Features of a split: those known from the cache, the rest from the network, in one memory-mapped file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eif_engine.data.features import BATCH_SIZE
from services.influence.worker.executors import open_executor
from services.influence.worker.feature_cache import FeatureCache
from services.influence.worker.inputs import JobModel
from services.influence.worker.job import Job
from services.influence.worker.mapped_file import mapped_file
from services.influence.worker.quarantine import Quarantine
from services.influence.worker.shard_features import SampleShard, ShardFeatures, extract_shard
from services.influence.worker.split import Split
from services.influence.worker.workplace import Workplace

BLOCK_ROWS = 16_384


@dataclass(frozen=True, kw_only=True)
class SplitFeatures:
    """Features of the samples that could be read.

    Attributes:
        rows: Their rows in the split (n,), ascending.
        sample_ids: Their ids.
        labels: Their labels.
        x_NF: Their features (n, F), in a file of the job's folder.
        digest_NB: Sha256 of their images (n, 32); zeros where it is not known.
        hits: How many the cache had.
        misses: How many the network computed.
    """

    rows: NDArray[np.int64]
    sample_ids: list[str]
    labels: list[str]
    x_NF: NDArray[np.float32]
    digest_NB: NDArray[np.uint8]
    hits: int
    misses: int


class FeatureExtractor:
    """Features of the splits of a job, one after the other.

    Args:
        job: The job.
        model: Its model.
        cache: Features known before; loaded.
        quarantine: Takes the samples that cannot be read.
    """

    def __init__(self, job: Job, model: JobModel, cache: FeatureCache, quarantine: Quarantine) -> None:
        self._job, self._model, self._cache, self._quarantine = job, model, cache, quarantine

    def extract(self, split: Split, report: Callable[[int], None]) -> SplitFeatures:
        """Features of a split; `report` is called with the number of its samples that are done.

        Raises:
            EifError: TOO_MANY_QUARANTINED, CHECKPOINT_INCOMPATIBLE (NaN features), STORAGE_UNAVAILABLE.
        """
        shape = (len(split), self._model.feature_dim)
        path = self._job.scratch / f"{split.name}.f32"
        x_NF = mapped_file(path, np.float32, shape)
        done_N = np.zeros(len(split), dtype=np.bool_)
        for rows in self._known(split, x_NF, report):
            done_N[rows] = True
        run = _Run(x_NF, done_N, split.digests().copy(), before=int(done_N.sum()))
        self._compute(split, run, report)
        self._cache.flush()
        kept = np.flatnonzero(done_N)
        return SplitFeatures(
            rows=kept,
            sample_ids=_picked(split.sample_ids, kept),
            labels=_picked(split.labels, kept),
            x_NF=_compacted(x_NF, kept),
            digest_NB=run.digest_NB[kept],
            hits=len(kept) - run.misses,
            misses=run.misses,
        )

    def _known(
        self, split: Split, x_NF: NDArray[np.float32], report: Callable[[int], None]
    ) -> Iterator[NDArray[np.int64]]:
        """Fill in what the cache has for digests that the manifest gives: these images are not even read."""
        candidates, done = np.flatnonzero(split.has_digest()), 0
        for start in range(0, len(candidates), BLOCK_ROWS):
            rows = candidates[start : start + BLOCK_ROWS]
            places = self._cache.find(split.digests()[rows])
            rows, places = rows[places >= 0], places[places >= 0]
            x_NF[rows] = self._cache.read(places)
            self._job.totals.features(hits=len(rows), misses=0)
            done += len(rows)
            report(done)
            yield rows

    def _compute(self, split: Split, run: _Run, report: Callable[[int], None]) -> None:
        todo = np.flatnonzero(~run.done_N).tolist()
        if not todo:
            return
        # Whole batches of the network, so that none runs half empty but the last.
        size = -(-self._job.settings.cache_shard_samples // BATCH_SIZE) * BATCH_SIZE
        starts = range(0, len(todo), size)
        shards = (SampleShard.of(split, todo[start : start + size]) for start in starts)
        place = Workplace(
            job=self._job,
            model=self._model,
            known=self._cache.knows,
            keep=self._cache.add,
            advance=lambda count: report(run.settled + count),
        )
        with (
            open_executor(place, known=self._cache.digests()) as executor,
            closing(executor.map(extract_shard, shards, count=len(starts))) as results,
        ):
            for found in results:
                self._take(split, run, found)
                run.settled += len(found.rows) + len(found.quarantined)
                report(run.settled)

    def _take(self, split: Split, run: _Run, found: ShardFeatures) -> None:
        for entry in found.quarantined:
            self._quarantine.add(split.name, entry, total=len(split))
        new, old = found.rows[found.is_new_N], found.rows[~found.is_new_N]
        run.x_NF[new] = found.x_NF
        run.x_NF[old] = self._cache.read(self._cache.find(found.digest_NB[~found.is_new_N]))
        run.digest_NB[found.rows] = found.digest_NB
        run.done_N[found.rows] = True
        run.misses += len(new)
        self._job.totals.features(hits=len(old), misses=len(new))


class _Run:
    """How far the computation of a split is."""

    def __init__(
        self, x_NF: NDArray[np.float32], done_N: NDArray[np.bool_], digest_NB: NDArray[np.uint8], *, before: int
    ) -> None:
        self.x_NF, self.done_N, self.digest_NB = x_NF, done_N, digest_NB
        self.settled, self.misses = before, 0  # samples whose features are there, or that were put aside


def _compacted(x_NF: NDArray[np.float32], kept: NDArray[np.int64]) -> NDArray[np.float32]:
    """Move the rows that are kept to the front, a block at a time; rows only ever move forwards."""
    if len(kept) < len(x_NF):
        for start in range(0, len(kept), BLOCK_ROWS):
            rows = kept[start : start + BLOCK_ROWS]
            x_NF[start : start + len(rows)] = x_NF[rows]
    return x_NF[: len(kept)]


def _picked(column: list[str], kept: NDArray[np.int64]) -> list[str]:
    return column if len(kept) == len(column) else [column[row] for row in kept.tolist()]
