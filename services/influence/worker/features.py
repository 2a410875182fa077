"""Features of a split: those known from the cache, the rest from the network, in one memory-mapped file."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eif_engine.data.features import extract
from eif_engine.errors import CheckpointIncompatible
from eif_engine.types import Quarantined
from services.influence.worker.feature_cache import FeatureCache
from services.influence.worker.image_stream import Image, stream_images
from services.influence.worker.inputs import JobModel
from services.influence.worker.job import Job
from services.influence.worker.mapped_file import mapped_file
from services.influence.worker.quarantine import Quarantine
from services.influence.worker.split import Split

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
            done += len(rows)
            report(done)
            yield rows

    def _compute(self, split: Split, run: _Run, report: Callable[[int], None]) -> None:
        todo = np.flatnonzero(~run.done_N).tolist()
        if not todo:
            return
        model = self._model
        preprocessing = model.loaded.preprocessing
        images = stream_images(self._job, split, todo, preprocessing=preprocessing, cache=self._cache)
        with closing(images) as stream:
            batches = self._batches(split, stream, run, report)
            try:
                for features_BF in extract(model.loaded.backbone, batches, device=model.device):
                    self._keep(run, features_BF)
                    report(run.settled)
            except CheckpointIncompatible as error:
                raise self._broken(split, run, error) from error

    def _batches(
        self, split: Split, images: Iterator[Image | Quarantined], run: _Run, report: Callable[[int], None]
    ) -> Iterator[NDArray[np.float32]]:
        for image in images:
            run.seen += 1
            if isinstance(image, Quarantined):
                self._quarantine.add(split.name, image, total=len(split))
            elif image.pixels_CHW is None:
                run.x_NF[image.row] = self._cache.read(np.array([image.place]))[0]
                run.digest_NB[image.row] = image.digest
                run.done_N[image.row] = True
            else:
                run.pending.append(image)
                yield image.pixels_CHW[None]
                continue
            report(run.settled)

    def _keep(self, run: _Run, features_BF: NDArray[np.float32]) -> None:
        images = [run.pending.popleft() for _ in range(len(features_BF))]
        rows, new_digest_NB = [image.row for image in images], np.stack([image.digest for image in images])
        run.x_NF[rows] = features_BF
        run.digest_NB[rows] = new_digest_NB
        run.done_N[rows] = True
        run.misses += len(rows)
        self._cache.add(new_digest_NB, features_BF)

    def _broken(self, split: Split, run: _Run, error: CheckpointIncompatible) -> CheckpointIncompatible:
        """The engine counts the images it was given; the caller knows their ids."""
        row = error.metadata.get("row")
        if row is None or not 0 <= int(row) - run.misses < len(run.pending):
            return error
        sample = split.sample(run.pending[int(row) - run.misses].row)
        return CheckpointIncompatible(
            f"the backbone gives NaN or infinite features for sample {sample.sample_id!r} ({sample.uri}): the weights "
            f"{self._model.bundle.weights.file}, or the preprocessing of model.json, are broken",
            sample_id=sample.sample_id,
            uri=sample.uri,
        )


class _Run:
    """How far the computation of a split is."""

    def __init__(
        self, x_NF: NDArray[np.float32], done_N: NDArray[np.bool_], digest_NB: NDArray[np.uint8], *, before: int
    ) -> None:
        self.x_NF, self.done_N, self.digest_NB, self.before = x_NF, done_N, digest_NB, before
        self.pending: deque[Image] = deque()
        self.seen = self.misses = 0

    @property
    def settled(self) -> int:
        """Samples whose features are there, or that were put aside."""
        return self.before + self.seen - len(self.pending)


def _compacted(x_NF: NDArray[np.float32], kept: NDArray[np.int64]) -> NDArray[np.float32]:
    """Move the rows that are kept to the front, a block at a time; rows only ever move forwards."""
    if len(kept) < len(x_NF):
        for start in range(0, len(kept), BLOCK_ROWS):
            rows = kept[start : start + BLOCK_ROWS]
            x_NF[start : start + len(rows)] = x_NF[rows]
    return x_NF[: len(kept)]


def _picked(column: list[str], kept: NDArray[np.int64]) -> list[str]:
    return column if len(kept) == len(column) else [column[row] for row in kept.tolist()]
