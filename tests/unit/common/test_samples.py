from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

import pytest

from eif_engine.errors import ManifestInvalid
from eif_engine.types import Quarantined, Sample
from services.common.errors import ServiceError
from services.common.samples import SampleLimits, read_samples
from services.common.storage.base import ObjectInfo
from services.common.storage.local import LocalStore
from tests.stores import Place, local_place, s3_place


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest) -> Place:
    if request.param == "s3":
        return s3_place(request.getfixturevalue("weed"))
    return local_place(request.getfixturevalue("tmp_path") / "root")


def sample(uri: str, *, sha256: str | None = None, sample_id: str = "id") -> Sample:
    return Sample(sample_id=sample_id, uri=uri, label="label", sha256=sha256)


def put_many(place: Place, count: int) -> list[tuple[Sample, bytes]]:
    """Samples of different sizes."""
    made = []
    for number in range(count):
        data = bytes([number % 256]) * (1 + 37 * number)
        uri = place.uri(f"image-{number}")
        place.store.put(uri, data)
        made.append((sample(uri, sample_id=str(number), sha256=hashlib.sha256(data).hexdigest()), data))
    return made


@pytest.mark.parametrize("workers", [1, 7])
def test_images_come_in_the_order_of_the_samples(place: Place, workers: int) -> None:
    expected = put_many(place, 60)
    found = list(read_samples(place.store, (each for each, _ in expected), workers=workers))
    assert found == expected


def test_no_samples(place: Place) -> None:
    assert list(read_samples(place.store, [])) == []


def test_a_sample_that_cannot_be_read_is_quarantined_with_its_reason(place: Place) -> None:
    place.store.put(place.uri("good"), b"good")
    place.store.put(place.uri("large"), b"x" * 101)
    samples = [
        sample(place.uri("good"), sample_id="a"),
        sample(place.uri("missing"), sample_id="b"),
        sample(place.uri("large"), sample_id="c"),
        sample(place.uri("good"), sample_id="d", sha256="0" * 64),
        sample("http://elsewhere/image.png", sample_id="e"),
        sample(place.uri("../secret"), sample_id="f"),
        sample(place.uri("good"), sample_id="g", sha256=hashlib.sha256(b"good").hexdigest()),
    ]
    found = [data for _, data in read_samples(place.store, samples, limits=SampleLimits(max_sample_bytes=100))]
    reasons = [each.reason if isinstance(each, Quarantined) else each for each in found]
    assert reasons == [
        b"good",
        "OBJECT_NOT_FOUND",
        "OBJECT_TOO_LARGE",
        "OBJECT_DIGEST_MISMATCH",
        "URI_NOT_ALLOWED",
        "URI_NOT_ALLOWED",
        b"good",
    ]
    quarantined = found[1]
    assert isinstance(quarantined, Quarantined)
    assert quarantined.sample_id == "b"
    assert quarantined.uri == place.uri("missing")
    assert place.uri("missing") in quarantined.message


class ShakyStore:
    """A real store whose reads can be delayed, counted, and fail as an outage does."""

    def __init__(self, store: LocalStore, *, fail_at: str = "", delay: float = 0.0) -> None:
        self._store, self._fail_at, self._delay = store, fail_at, delay
        self._lock = threading.Lock()
        self.running = 0
        self.most_running = 0
        self.reads: list[str] = []

    def read(self, uri: str, *, max_bytes: int, sha256: str | None = None) -> bytes:
        with self._lock:
            self.reads.append(uri)
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        try:
            time.sleep(self._delay)
            if self._fail_at and uri.endswith(self._fail_at):
                raise ServiceError("STORAGE_UNAVAILABLE", "gone")
            return self._store.read(uri, max_bytes=max_bytes, sha256=sha256)
        finally:
            with self._lock:
                self.running -= 1

    def head(self, uri: str) -> ObjectInfo:
        return self._store.head(uri)

    def open(
        self, uri: str, *, offset: int = 0, length: int | None = None, etag: str | None = None
    ) -> AbstractContextManager[BinaryIO]:
        return self._store.open(uri, offset=offset, length=length, etag=etag)

    def download(self, uri: str, path: Path, *, max_bytes: int, sha256: str | None = None) -> str:
        return self._store.download(uri, path, max_bytes=max_bytes, sha256=sha256)

    def put(self, uri: str, data: bytes | Path, *, if_absent: bool = False) -> ObjectInfo:
        return self._store.put(uri, data, if_absent=if_absent)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self._store.list(prefix)

    def delete(self, uri: str) -> None:
        self._store.delete(uri)


def shaky(
    tmp_path: Path, *, count: int, size: int, fail_at: str = "", delay: float = 0.0
) -> tuple[ShakyStore, list[Sample]]:
    place, store = local_place(tmp_path), LocalStore([tmp_path])
    samples = [sample(place.uri(f"image-{number:03d}"), sample_id=str(number)) for number in range(count)]
    for each in samples:
        store.put(each.uri, b"x" * size)
    return ShakyStore(store, fail_at=fail_at, delay=delay), samples


def test_an_outage_is_raised_after_the_samples_before_it(tmp_path: Path) -> None:
    store, samples = shaky(tmp_path, count=40, size=10, fail_at="image-020")
    reads = read_samples(store, samples, workers=4)
    assert [next(reads)[0] for _ in range(20)] == samples[:20]
    with pytest.raises(ServiceError, match="gone") as caught:
        next(reads)
    assert caught.value.reason == "STORAGE_UNAVAILABLE"


def test_a_fault_of_the_manifest_is_raised_after_the_samples_before_it(tmp_path: Path) -> None:
    store, samples = shaky(tmp_path, count=10, size=10)

    def manifest() -> Iterator[Sample]:
        yield from samples
        raise ManifestInvalid("line 11 is broken", uri="m", line=11)

    reads = read_samples(store, manifest(), workers=4)
    assert [next(reads)[0] for _ in range(10)] == samples
    with pytest.raises(ManifestInvalid, match="line 11"):
        next(reads)


def test_reads_overlap_but_bytes_in_flight_stay_within_the_limit(tmp_path: Path) -> None:
    store, samples = shaky(tmp_path, count=30, size=1000, delay=0.01)
    limits = SampleLimits(max_sample_bytes=1000, max_bytes_in_flight=3000)
    assert len(list(read_samples(store, samples, limits=limits, workers=8))) == 30
    assert store.most_running == 3


def test_one_sample_may_always_be_in_flight(tmp_path: Path) -> None:
    store, samples = shaky(tmp_path, count=5, size=1000)
    limits = SampleLimits(max_sample_bytes=1000, max_bytes_in_flight=1)
    assert len(list(read_samples(store, samples, limits=limits, workers=8))) == 5
    assert store.most_running == 1


def test_a_slow_consumer_is_not_run_ahead_of(tmp_path: Path) -> None:
    store, samples = shaky(tmp_path, count=200, size=10)
    reads = read_samples(store, samples, workers=4, limits=SampleLimits(max_sample_bytes=10))
    next(reads)
    _wait_until(lambda: store.running == 0 and len(store.reads) >= 16)
    assert len(store.reads) <= 17  # the one handed over, and 4 for each worker
    reads.close()


def test_a_reader_that_is_left_leaves_nothing_behind(tmp_path: Path) -> None:
    store, samples = shaky(tmp_path, count=100, size=10, delay=0.02)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    before = set(threading.enumerate())
    reads = read_samples(store, samples, workers=4, scratch=scratch)
    next(reads)
    reads.close()
    assert list(scratch.iterdir()) == []
    assert set(threading.enumerate()) == before
    assert store.running == 0
    assert len(store.reads) < 100


def _wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
