from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from eif_engine.types import no_progress
from services.common.errors import ServiceError
from services.common.storage.router import RoutedStore
from services.influence.worker.feature_cache import STORE_EVERY_S, FeatureCache
from services.influence.worker.feature_shard import Digests, Features
from tests.stores import Place, local_place

DIM = 3


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "objects").mkdir()
    return local_place(tmp_path / "objects")


def opened(
    place: Place, tmp_path: Path, *, dim: int = DIM, shard: int = 4, clock: Callable[[], float] = time.monotonic
) -> FeatureCache:
    (tmp_path / "scratch").mkdir(exist_ok=True)
    cache = FeatureCache(
        place.store,
        place.uri("features/key"),
        feature_dim=dim,
        scratch=tmp_path / "scratch",
        shard_samples=shard,
        clock=clock,
    )
    cache.load(no_progress)
    return cache


def images(*names: str) -> Digests:
    return np.stack([np.frombuffer(hashlib.sha256(name.encode()).digest(), dtype=np.uint8) for name in names])


def features(*values: float) -> Features:
    return np.repeat(np.array(values, dtype=np.float32)[:, None], DIM, axis=1)


def shards(place: Place) -> list[str]:
    return [info.uri for info in place.store.list(place.uri("features/"))]


def test_what_was_added_is_found_by_the_next_job(place: Place, tmp_path: Path) -> None:
    cache = opened(place, tmp_path)
    cache.add(images("a", "b"), features(1, 2))
    cache.flush()
    found = opened(place, tmp_path)
    places = found.find(images("b", "nobody", "a"))
    assert places.tolist()[1] == -1
    assert found.read(places[[0, 2]]).tolist() == [[2, 2, 2], [1, 1, 1]]


def test_nothing_is_found_in_an_empty_cache(place: Place, tmp_path: Path) -> None:
    assert opened(place, tmp_path).find(images("a", "b")).tolist() == [-1, -1]


def test_digests_that_end_in_zeros_are_told_apart(place: Place, tmp_path: Path) -> None:
    digests = np.zeros((3, 32), dtype=np.uint8)
    digests[1, 0], digests[2, 30] = 1, 1
    cache = opened(place, tmp_path)
    cache.add(digests, features(1, 2, 3))
    cache.flush()
    found = opened(place, tmp_path)
    assert found.read(found.find(digests))[:, 0].tolist() == [1, 2, 3]


def test_a_full_shard_is_stored_at_once_and_the_rest_at_the_end(place: Place, tmp_path: Path) -> None:
    cache = opened(place, tmp_path, shard=2)
    cache.add(images("a"), features(1))
    assert shards(place) == []
    cache.add(images("b", "c"), features(2, 3))
    assert len(shards(place)) == 2
    cache.add(images("d"), features(4))
    cache.flush()
    cache.flush()
    assert len(shards(place)) == 3


def test_a_slow_job_stores_what_it_has(place: Place, tmp_path: Path) -> None:
    now = [0.0]
    cache = opened(place, tmp_path, clock=lambda: now[0])
    cache.add(images("a"), features(1))
    now[0] += STORE_EVERY_S
    cache.add(images("b"), features(2))
    assert len(shards(place)) == 1


def test_a_shard_is_named_by_its_content(place: Place, tmp_path: Path) -> None:
    for _ in range(2):
        cache = opened(place, tmp_path)
        cache.add(images("a"), features(1))
        cache.flush()
    (uri,) = shards(place)
    data = place.store.read(uri, max_bytes=1 << 20)
    assert uri.endswith(f"features/key/{hashlib.sha256(data).hexdigest()}.safetensors")


def stored(place: Place, data: bytes, *, name: str | None = None) -> None:
    place.store.put(place.uri(f"features/key/{name or hashlib.sha256(data).hexdigest()}.safetensors"), data)


@pytest.mark.parametrize(
    "data",
    [
        b"not safetensors",
        save({"features": features(1)}),
        save({"features": features(1), "digests": images("a")[:, :16]}),
        save({"features": features(1, 2), "digests": images("a")}),
        save({"features": features(1)[:, :2], "digests": images("a")}),
        save({"features": features(np.nan), "digests": images("a")}),
        save({"features": features(1).astype(np.float64), "digests": images("a")}),
    ],
    ids=["garbage", "no digests", "short digests", "other count", "other width", "nan", "float64"],
)
def test_a_shard_that_is_not_one_is_passed_over(place: Place, tmp_path: Path, data: bytes) -> None:
    stored(place, data)
    good = save({"features": features(7), "digests": images("good")})
    stored(place, good)
    cache = opened(place, tmp_path)
    assert cache.find(images("a", "good")).tolist()[0] == -1
    assert cache.read(cache.find(images("good")))[0, 0] == 7


def test_a_shard_whose_content_is_not_its_name_is_passed_over(place: Place, tmp_path: Path) -> None:
    stored(place, save({"features": features(1), "digests": images("a")}), name="0" * 64)
    assert opened(place, tmp_path).find(images("a")).tolist() == [-1]
    assert not list((tmp_path / "scratch").glob("shard-*"))


def test_a_cache_that_may_not_be_used_costs_no_job(place: Place, tmp_path: Path) -> None:
    store = RoutedStore({"file": place.store}, allowed_prefixes=(place.uri("elsewhere"),))
    cache = FeatureCache(store, place.uri("f"), feature_dim=DIM, scratch=tmp_path, shard_samples=1)
    cache.load(no_progress)
    cache.add(images("a"), features(1))
    cache.flush()
    assert shards(place) == []


def test_a_store_that_is_broken_is_told(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("services.common.storage.local.os.fsync", full)
    cache = FeatureCache(place.store, place.uri("f"), feature_dim=DIM, scratch=tmp_path, shard_samples=1)
    with pytest.raises(ServiceError, match="No space left"):
        cache.add(images("a"), features(1))
