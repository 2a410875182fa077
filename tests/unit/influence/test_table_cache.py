from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services.common.errors import ServiceError
from services.common.storage.local import LocalStore
from services.influence.job import Job, JobOutput, JobState
from services.influence.result_manifest import ResultManifest, TableEntry
from services.influence.table_cache import TableCache
from services.influence.tables import QUARANTINE
from tests.jobs import make_job


class CountingStore(LocalStore):
    """Counts downloads."""

    def __init__(self, root: Path) -> None:
        super().__init__([root])
        self.downloads = 0
        self._lock = threading.Lock()

    def download(self, uri: str, path: Path, *, max_bytes: int, sha256: str | None = None) -> str:
        with self._lock:
            self.downloads += 1
        return super().download(uri, path, max_bytes=max_bytes, sha256=sha256)


@pytest.fixture
def store(tmp_path: Path) -> CountingStore:
    (tmp_path / "store").mkdir()
    return CountingStore(tmp_path / "store")


def make_cache(tmp_path: Path, store: CountingStore, *, max_bytes: int = 1 << 20) -> TableCache:
    return TableCache(store, tmp_path / "cache", max_bytes=max_bytes, max_table_bytes=1 << 20)


def succeeded(tmp_path: Path, name: str, rows: int = 3) -> tuple[Job, Path]:
    """A job with a quarantine table of its own, and where the table is."""
    job = make_job(name, state=JobState.SUCCEEDED, output_uri_prefix=f"file://{tmp_path}/store")
    path = tmp_path / "store" / job.uid / "quarantine.parquet"
    path.parent.mkdir()
    columns = {field.name: [f"{name} {field.name} {row}" for row in range(rows)] for field in QUARANTINE}
    pq.write_table(pa.table(columns, schema=QUARANTINE), path)
    entry = TableEntry(
        file=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        rows=rows,
        bytes=path.stat().st_size,
    )
    manifest = ResultManifest(
        name=job.name, uid=job.uid, attempt=1, kind="rank", tables={"quarantine": entry}, figures={}, provenance={}
    )
    return replace(job, output=JobOutput(manifest_sha256="0" * 64, manifest=manifest)), path


def refused(cache: TableCache, job: Job, name: str = "quarantine") -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        cache.open(job, name)
    return caught.value


def test_a_table_is_fetched_once_however_many_ask(tmp_path: Path, store: CountingStore) -> None:
    cache = make_cache(tmp_path, store)
    job, _ = succeeded(tmp_path, "a")
    with ThreadPoolExecutor(8) as pool:
        tables = list(pool.map(lambda _: cache.open(job, "quarantine"), range(16)))
    assert store.downloads == 1
    assert {id(table) for table in tables} == {id(tables[0])}
    assert tables[0].read(1, 1)["uri"].to_pylist() == ["a uri 1"]


def test_the_least_recently_used_go_and_those_in_use_stay_readable(tmp_path: Path, store: CountingStore) -> None:
    jobs = [succeeded(tmp_path, name)[0] for name in "abc"]
    one = make_cache(tmp_path, store).open(jobs[0], "quarantine").size
    cache = make_cache(tmp_path, store, max_bytes=2 * one + 10)
    store.downloads = 0
    first = cache.open(jobs[0], "quarantine")
    cache.open(jobs[1], "quarantine")
    cache.open(jobs[0], "quarantine")
    cache.open(jobs[2], "quarantine")
    assert cache.size <= 2 * one + 10
    assert len(list((tmp_path / "cache").iterdir())) == 2
    cache.open(jobs[0], "quarantine")
    assert store.downloads == 3
    cache.open(jobs[1], "quarantine")
    cache.open(jobs[2], "quarantine")
    assert store.downloads == 5
    assert first.read(0, 3)["uri"].to_pylist() == ["a uri 0", "a uri 1", "a uri 2"]


def test_a_cache_of_no_size_works_all_the_same(tmp_path: Path, store: CountingStore) -> None:
    cache = make_cache(tmp_path, store, max_bytes=0)
    job, _ = succeeded(tmp_path, "a")
    for _ in range(2):
        assert len(cache.open(job, "quarantine")) == 3
    assert store.downloads == 2
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_table_that_was_changed_is_corrupt(tmp_path: Path, store: CountingStore) -> None:
    cache = make_cache(tmp_path, store)
    job, path = succeeded(tmp_path, "a")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    error = refused(cache, job)
    assert error.reason == "RESULT_CORRUPT"
    assert str(path) in error.message
    assert "sha256" in error.message
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_table_that_is_gone_is_corrupt_and_found_when_it_is_back(tmp_path: Path, store: CountingStore) -> None:
    cache = make_cache(tmp_path, store)
    job, path = succeeded(tmp_path, "a")
    path.rename(path.with_suffix(".away"))
    error = refused(cache, job)
    assert error.reason == "RESULT_CORRUPT"
    assert "is gone" in error.message
    path.with_suffix(".away").rename(path)
    assert len(cache.open(job, "quarantine")) == 3


def test_a_table_that_the_job_has_not_is_not_found(tmp_path: Path, store: CountingStore) -> None:
    job, _ = succeeded(tmp_path, "a")
    error = refused(make_cache(tmp_path, store), job, "relabel")
    assert error.reason == "TABLE_NOT_FOUND"
    assert error.message == f"{job.name} is a rank job and has no table relabel; it has quarantine"


def test_a_table_over_the_limit_is_refused(tmp_path: Path, store: CountingStore) -> None:
    cache = TableCache(store, tmp_path / "cache", max_bytes=1, max_table_bytes=100)
    job, _ = succeeded(tmp_path, "a")
    assert refused(cache, job).reason == "OBJECT_TOO_LARGE"


def test_a_forgotten_table_is_removed(tmp_path: Path, store: CountingStore) -> None:
    cache = make_cache(tmp_path, store)
    job, _ = succeeded(tmp_path, "a")
    cache.open(job, "quarantine")
    cache.forget(job)
    cache.forget(job)
    assert list((tmp_path / "cache").iterdir()) == []
    assert cache.size == 0


def test_what_another_server_left_is_removed(tmp_path: Path, store: CountingStore) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "old.arrow").write_text("x")
    make_cache(tmp_path, store)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_disk_that_cannot_be_written_is_a_resource_problem(tmp_path: Path, store: CountingStore) -> None:
    cache = make_cache(tmp_path, store)
    job, _ = succeeded(tmp_path, "a")
    cache._path(job.output.manifest.tables["quarantine"].sha256 if job.output else "").mkdir()
    assert refused(cache, job).reason == "RESOURCE_PROBLEM"
