"""Features that were computed before, by any job on the same model: never again for the same image.

`<folder>/<sha256 of the shard>.safetensors`, see feature_shard.py. Shards are only ever added, so that jobs need no
lock between them: two that compute the same features at the same time both store them, and either is right.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eif_engine.types import Progress
from services.common.errors import ServiceError
from services.common.storage.base import ObjectInfo, ObjectStore
from services.influence.worker.feature_shard import SUFFIX, Digests, Features, pack, unpack
from services.influence.worker.split import DIGEST_BYTES

logger = logging.getLogger(__name__)

STORE_EVERY_S = 30.0
"""A shard that is not full is stored after this time: that much work is lost at most when the process is killed."""

_THREADS = 8
_SORTABLE = f"S{DIGEST_BYTES}"
_NOT_OURS_TO_USE = frozenset({"STORAGE_DENIED", "URI_NOT_ALLOWED"})


def check_denied(error: ServiceError) -> None:
    """Features that may not be stored are computed again by later jobs. Raises any other error of the store."""
    if error.reason not in _NOT_OURS_TO_USE:
        raise error
    logger.warning("features are not kept for later jobs: %s", error.message)


class FeatureCache:
    """Features by the sha256 of their image. `find` and `read` are thread-safe once `load` has returned.

    Args:
        store: Where the shards lie.
        folder: URI of the folder of the model's shards.
        feature_dim: F.
        scratch: A folder of the job's; the features known lie there in one file.
        shard_samples: Samples in a full shard.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        store: ObjectStore,
        folder: str,
        *,
        feature_dim: int,
        scratch: Path,
        shard_samples: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._folder, self._scratch = store, folder.rstrip("/"), scratch
        self._feature_dim, self._shard_samples, self._clock = feature_dim, shard_samples, clock
        self._known = scratch / "known.f32"
        self._sorted = np.zeros(0, dtype=_SORTABLE)
        self._order = np.zeros(0, dtype=np.int64)
        self._features_NF: Features = np.zeros((0, feature_dim), dtype=np.float32)
        self._held: list[tuple[Digests, Features]] = []
        self._stored_at = clock()

    def load(self, report: Progress) -> None:
        """Fetch the shards there are. A damaged one is passed over: its features are computed again."""
        digests = [np.zeros((0, DIGEST_BYTES), dtype=np.uint8)]
        with self._known.open("wb") as file:
            for shard_digests, features in self._shards(report):
                file.write(features.data)
                digests.append(shard_digests)
        keys = np.concatenate(digests).view(_SORTABLE).ravel()
        self._order = np.argsort(keys, kind="stable")
        self._sorted = keys[self._order]
        if len(keys):
            shape = (len(keys), self._feature_dim)
            self._features_NF = np.memmap(self._known, dtype=np.float32, mode="r", shape=shape)

    def find(self, digests_N: Digests) -> NDArray[np.int64]:
        """Where the features of each image are, -1 for those not known."""
        keys = np.ascontiguousarray(digests_N).view(_SORTABLE).ravel()
        if not len(self._sorted):
            return np.full(len(keys), -1, dtype=np.int64)
        at = np.searchsorted(self._sorted, keys).clip(max=len(self._sorted) - 1)
        return np.where(self._sorted[at] == keys, self._order[at], -1)

    def knows(self, digests_N: Digests) -> NDArray[np.bool_]:
        """For which images there are features."""
        return self.find(digests_N) >= 0

    def digests(self) -> NDArray[np.void]:
        """Sha256 of the images whose features are known, sorted, as find compares them."""
        return self._sorted

    def read(self, places: NDArray[np.int64]) -> Features:
        """Features (n, F) at the places that `find` gave."""
        return self._features_NF[places]

    def add(self, digests_N: Digests, features_NF: Features) -> None:
        """Keep new features; they are stored as soon as they fill a shard."""
        self._held.append((digests_N, features_NF))
        if self._held_samples() >= self._shard_samples or self._clock() - self._stored_at >= STORE_EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Store what is kept."""
        if not self._held:
            return
        digests = np.concatenate([digests for digests, _ in self._held])
        features = np.concatenate([features for _, features in self._held])
        for start in range(0, len(digests), self._shard_samples):
            part = slice(start, start + self._shard_samples)
            self._put(pack(digests[part], features[part]))
        self._held, self._stored_at = [], self._clock()

    def _held_samples(self) -> int:
        return sum(len(digests) for digests, _ in self._held)

    def _put(self, data: bytes) -> None:
        try:
            self._store.put(f"{self._folder}/{hashlib.sha256(data).hexdigest()}{SUFFIX}", data, if_absent=True)
        except ServiceError as error:
            if error.reason != "OBJECT_EXISTS":
                check_denied(error)

    def _shards(self, report: Progress) -> Iterator[tuple[Digests, Features]]:
        shards = self._that_fit(self._listed())
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="shards") as pool:
            try:
                for done, path in enumerate(pool.map(self._download, shards), start=1):
                    report(done, len(shards))
                    content = unpack(path, feature_dim=self._feature_dim) if path else None
                    if path:
                        path.unlink()
                    if content is not None:
                        yield content
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _listed(self) -> list[ObjectInfo]:
        try:
            return [info for info in self._store.list(f"{self._folder}/") if info.uri.endswith(SUFFIX)]
        except ServiceError as error:
            if error.reason not in {*_NOT_OURS_TO_USE, "OBJECT_NOT_FOUND"}:
                raise
            return []

    def _that_fit(self, shards: list[ObjectInfo]) -> list[ObjectInfo]:
        """As many as take half of the free disk at most; each lies there twice for a moment."""
        room = shutil.disk_usage(self._scratch).free // 4
        sizes = np.cumsum([info.size for info in shards])
        return shards[: int(np.searchsorted(sizes, room, side="right"))]

    def _download(self, info: ObjectInfo) -> Path | None:
        name = info.uri.rpartition("/")[2]
        path = self._scratch / f"shard-{name}"
        try:
            self._store.download(info.uri, path, max_bytes=info.size, sha256=name.removesuffix(SUFFIX))
        except ServiceError as error:
            if error.reason == "STORAGE_UNAVAILABLE":
                raise
            logger.warning("a shard of features is passed over: %s", error.message)
            return None
        return path
