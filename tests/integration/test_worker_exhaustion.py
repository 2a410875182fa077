"""A job process that runs out of something: GPU memory (of a network that says so), scratch disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from services.influence.messages import FailedMessage
from tests import plugin
from tests.conftest import REPO
from tests.job_world import JobWorld, Result
from tests.small_disk import small_disk
from tests.worker_process import WorkerProcess


@pytest.fixture
def world(tmp_path: Path) -> JobWorld:
    return JobWorld(tmp_path / "world")


def environ(tmp_path: Path) -> dict[str, str]:
    path = os.pathsep.join([str(REPO), plugin.install(tmp_path)])
    return {"PYTHONPATH": path}


def hungry(world: JobWorld, tmp_path: Path, most: int) -> WorkerProcess:
    model = world.bundle(f"hungry-{most}", architecture="hungry", options={"most": most})
    request = world.request(world.rank_spec(train=100, model=model))
    return WorkerProcess(tmp_path / f"job-{most}", request, world.place.settings, environ=environ(tmp_path))


def shards(world: JobWorld) -> list[str]:
    return [info.uri for info in world.store.list(world.place.uri("out/cache/features/"))]


def result_of(world: JobWorld, worker: WorkerProcess) -> Result:
    assert worker.wait() == 0, worker.log()
    return world.result(worker.last)  # type: ignore[arg-type]  # checked there


def test_a_gpu_that_is_short_of_memory_gets_smaller_batches(world: JobWorld, tmp_path: Path) -> None:
    with hungry(world, tmp_path, 20) as worker:
        found = result_of(world, worker)
    assert "batches of 16" in worker.log()
    assert shards(world) == []  # their last bits are not those of full batches: no other job is to find them
    with hungry(world, tmp_path, 64) as worker:
        expected = result_of(world, worker)
    assert len(shards(world)) > 0
    assert [row["sample_id"] for row in found.ranking()] == [row["sample_id"] for row in expected.ranking()]
    assert [row["score"] for row in found.ranking()] == pytest.approx(
        [row["score"] for row in expected.ranking()], rel=1e-5
    )


def test_a_gpu_that_holds_no_image_fails_the_job_with_its_reason(world: JobWorld, tmp_path: Path) -> None:
    with hungry(world, tmp_path, 0) as worker:
        assert worker.wait() == 0
    assert isinstance(worker.last, FailedMessage)
    assert worker.last.reason == "GPU_OUT_OF_MEMORY"
    assert not (worker.folder / "scratch").exists()


@pytest.mark.parametrize("size", ["48k", "192k"])
def test_a_full_scratch_disk_fails_the_job_with_its_reason(world: JobWorld, tmp_path: Path, size: str) -> None:
    request = world.request(world.rank_spec(train=600))
    with small_disk(tmp_path / "disk", size) as disk:
        log = tmp_path / "log"
        log.mkdir()
        with WorkerProcess(disk / "job", request, world.place.settings, log_folder=log) as worker:
            assert worker.wait() == 0
        assert isinstance(worker.last, FailedMessage)
        assert worker.last.reason == "SCRATCH_FULL", worker.last
        assert not (disk / "job" / "scratch").exists()
    assert list(world.store.list(world.place.uri(f"out/{request.uid}/"))) == []
