"""Features of one shard of samples: read, decoded, and run through the backbone."""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from eif_engine.data.features import extract
from eif_engine.errors import CheckpointIncompatible
from eif_engine.types import Quarantined, Sample
from services.common.errors import ServiceError
from services.influence.worker.feature_cache import check_denied
from services.influence.worker.feature_shard import SUFFIX, Digests, Features, pack, unpack
from services.influence.worker.image_stream import Image, stream_images
from services.influence.worker.job import Job
from services.influence.worker.split import DIGEST_BYTES, Split
from services.influence.worker.workplace import Workplace

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SampleShard:
    """Samples whose images are to be looked at.

    Attributes:
        split: Where they are from.
        rows: Their rows in it, ascending.
        samples: The samples.
    """

    split: str
    rows: Sequence[int]
    samples: Sequence[Sample]

    @classmethod
    def of(cls, split: Split, rows: Sequence[int]) -> SampleShard:
        """The samples of some rows."""
        return cls(split=split.name, rows=rows, samples=[split.sample(row) for row in rows])

    @property
    def name(self) -> str:
        """For people: the samples by their ids."""
        first, last = self.samples[0].sample_id, self.samples[-1].sample_id
        return f"shard of {len(self.samples):,} {self.split} samples, {first!r} to {last!r}"


@dataclass(frozen=True, kw_only=True)
class ShardFeatures:
    """What came out of a shard.

    Attributes:
        rows: Rows of the images that could be read (n,).
        digest_NB: Sha256 of each (n, 32).
        is_new_N: Which features were computed; the others are known.
        x_NF: The new features, in the order of their rows; None while they lie in the object store.
        quarantined: What could not be read, in order.
        stored: The sha256 of the stored shard of new features; empty while they are here.
        feature_dim: F.
        exact: They came from batches of full size, and so may be kept for other jobs.
    """

    rows: NDArray[np.int64]
    digest_NB: Digests
    is_new_N: NDArray[np.bool_]
    x_NF: Features | None
    quarantined: Sequence[Quarantined]
    feature_dim: int
    stored: str = ""
    exact: bool = True

    def put_away(self, place: Workplace) -> Self:
        """Store the new features, where all jobs find them. Where that is denied, they travel as they are."""
        if self.x_NF is None or not len(self.x_NF) or not self.exact:
            return self
        data = pack(self.digest_NB[self.is_new_N], self.x_NF)
        digest = hashlib.sha256(data).hexdigest()
        try:
            place.job.store.put(f"{place.feature_folder}/{digest}{SUFFIX}", data, if_absent=True)
        except ServiceError as error:
            if error.reason != "OBJECT_EXISTS":
                check_denied(error)
                return self
        return replace(self, x_NF=None, stored=f"{place.feature_folder}/{digest}{SUFFIX}")

    def bring_back(self, job: Job) -> Self:
        """Fetch the new features, and check that they are those that were stored."""
        if self.x_NF is not None:
            return self
        name = self.stored.rpartition("/")[2]
        path = job.scratch / f"back-{name}"
        limit = job.store.head(self.stored).size
        job.store.download(self.stored, path, max_bytes=limit, sha256=name.removesuffix(SUFFIX))
        content = unpack(path, feature_dim=self.feature_dim)
        path.unlink()
        if content is None or not np.array_equal(content[0], self.digest_NB[self.is_new_N]):
            raise ServiceError("OBJECT_DIGEST_MISMATCH", f"{self.stored} is not the shard that was stored there")
        return replace(self, x_NF=content[1])


def extract_shard(place: Workplace, shard: SampleShard) -> ShardFeatures:
    """Features of a shard; those of images that are known are left out.

    Raises:
        EifError: CHECKPOINT_INCOMPATIBLE (NaN features), GPU_OUT_OF_MEMORY, STORAGE_UNAVAILABLE and others.
    """
    run = _Run(place, shard)
    images = stream_images(
        place.job,
        zip(shard.rows, shard.samples, strict=True),
        preprocessing=place.model.loaded.preprocessing,
        known=place.known,
    )
    with closing(images) as stream:
        try:
            batches = extract(
                place.model.loaded.backbone, run.pixels(stream), device=place.model.device, on_smaller=run.shrink
            )
            for features_BF in batches:
                run.keep(features_BF)
        except CheckpointIncompatible as error:
            raise run.broken(error) from error
    return run.result()


@dataclass
class _Run:
    """How far a shard is."""

    place: Workplace
    shard: SampleShard
    pending: deque[Image] = field(default_factory=deque)
    done: list[tuple[int, NDArray[np.uint8], bool]] = field(default_factory=list)
    blocks: list[Features] = field(default_factory=list)
    quarantined: list[Quarantined] = field(default_factory=list)
    computed: int = 0
    exact: bool = True

    def pixels(self, images: Iterator[Image | Quarantined]) -> Iterator[NDArray[np.float32]]:
        """What the network is to see; notes the rest."""
        for image in images:
            if isinstance(image, Quarantined):
                self.quarantined.append(image)
            elif image.pixels_CHW is None:
                self.done.append((image.row, image.digest, False))
            else:
                self.pending.append(image)
                yield image.pixels_CHW[None]
                continue
            self._advance()

    def keep(self, features_BF: Features) -> None:
        """Take the features of the next images."""
        images = [self.pending.popleft() for _ in range(len(features_BF))]
        self.done += [(image.row, image.digest, True) for image in images]
        self.blocks.append(features_BF)
        self.computed += len(images)
        if self.exact:
            self.place.keep(np.stack([image.digest for image in images]), features_BF)
        self._advance()

    def shrink(self, size: int) -> None:
        """From here on batches are small: their last bits are not those of full ones."""
        self.exact = False
        logger.warning("the GPU is short of memory: %s goes on in batches of %d", self.shard.name, size)

    def broken(self, error: CheckpointIncompatible) -> CheckpointIncompatible:
        """The engine counts the images it was given; the caller knows their ids."""
        row = error.metadata.get("row")
        if row is None or not 0 <= int(row) - self.computed < len(self.pending):
            return error
        place = self.pending[int(row) - self.computed].row
        sample = self.shard.samples[list(self.shard.rows).index(place)]
        return CheckpointIncompatible(
            f"the backbone gives NaN or infinite features for sample {sample.sample_id!r} ({sample.uri}): the weights "
            f"{self.place.model.bundle.weights.file}, or the preprocessing of model.json, are broken",
            sample_id=sample.sample_id,
            uri=sample.uri,
        )

    def result(self) -> ShardFeatures:
        """All of it, by row."""
        feature_dim = self.place.model.feature_dim
        order = sorted(range(len(self.done)), key=lambda place: self.done[place][0])
        done = [self.done[place] for place in order]
        # New features were computed in the order of their rows, so that sorting leaves them as they are.
        return ShardFeatures(
            rows=np.array([row for row, _, _ in done], dtype=np.int64),
            digest_NB=np.array([digest for _, digest, _ in done], dtype=np.uint8).reshape(-1, DIGEST_BYTES),
            is_new_N=np.array([is_new for _, _, is_new in done], dtype=np.bool_),
            x_NF=np.concatenate([np.zeros((0, feature_dim), dtype=np.float32), *self.blocks]),
            quarantined=tuple(self.quarantined),
            feature_dim=feature_dim,
            exact=self.exact,
        )

    def _advance(self) -> None:
        self.place.advance(len(self.done) + len(self.quarantined))
