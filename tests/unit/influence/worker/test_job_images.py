from __future__ import annotations

import io
import tarfile
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from eif_engine.types import Sample
from services.common.storage.local import LocalStore
from services.common.storage.uris import file_uri
from services.influence.worker.job_images import JobImages

FILES = {f"{number}.png": bytes([number]) * 50 for number in range(40)}


class CountingStore(LocalStore):
    def __init__(self, root: Path) -> None:
        super().__init__([root])
        self.downloads: Counter[str] = Counter()

    def download(self, uri: str, path: Path, *, max_bytes: int, sha256: str | None = None) -> str:
        self.downloads[uri] += 1
        return super().download(uri, path, max_bytes=max_bytes, sha256=sha256)


@pytest.fixture
def store(tmp_path: Path) -> CountingStore:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in FILES.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    (tmp_path / "images.tar").write_bytes(buffer.getvalue())
    return CountingStore(tmp_path)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


@pytest.fixture
def images(store: CountingStore, scratch: Path) -> Iterator[JobImages]:
    opened = JobImages(store, workers=4, scratch=scratch)
    yield opened
    opened.close()


def samples(folder: Path) -> list[Sample]:
    uri = file_uri(folder / "images.tar")
    return [Sample(sample_id=name, uri=uri, label="a", member=name) for name in FILES]


def test_a_tar_is_fetched_once_by_all_who_read_from_it(images: JobImages, store: CountingStore, tmp_path: Path) -> None:
    for some in (samples(tmp_path)[:20], samples(tmp_path)[20:], samples(tmp_path)):
        assert [data for _, data in images.read(some)] == [FILES[sample.sample_id] for sample in some]
    assert list(store.downloads.values()) == [1]


def test_a_read_that_is_left_harms_no_other(images: JobImages, store: CountingStore, tmp_path: Path) -> None:
    left = images.read(samples(tmp_path))
    next(left)
    left.close()
    assert len(list(images.read(samples(tmp_path)))) == len(FILES)
    assert list(store.downloads.values()) == [1]


def test_what_is_closed_leaves_nothing_behind_and_reads_again(
    images: JobImages, store: CountingStore, scratch: Path, tmp_path: Path
) -> None:
    before = set(threading.enumerate())
    list(images.read(samples(tmp_path)))
    images.close()
    assert list(scratch.iterdir()) == []
    assert set(threading.enumerate()) == before
    assert len(list(images.read(samples(tmp_path)))) == len(FILES)
    assert list(store.downloads.values()) == [2]
