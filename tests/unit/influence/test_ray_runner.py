"""How the end of a job of the cluster is told. On a real cluster: tests/integration/test_ray.py."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from services.influence.job_folder import write_request
from services.influence.messages import CancelledMessage
from services.influence.ray_cluster import ClusterJob, RayCluster
from services.influence.ray_runner import RayRunner, exit_of, lost
from services.influence.runner import ExitReport
from services.influence.spec import Artifact, Device, JobRequest, RankSpec, RunOptions
from tests.ray_cluster import free_port
from tests.stores import local_place


def ended(status: str, exit_code: int | None = None) -> ClusterJob:
    return ClusterJob(submission_id="eif-u-1", status=status, exit_code=exit_code)


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        (ended("SUCCEEDED", 0), (0, None)),
        (ended("SUCCEEDED"), (0, None)),
        (ended("FAILED", 1), (1, None)),
        (ended("FAILED", 75), (75, None)),
        (ended("FAILED", 137), (None, "SIGKILL")),
        (ended("FAILED", -9), (None, "SIGKILL")),
        (ended("FAILED", 139), (None, "SIGSEGV")),
        (ended("FAILED", 200), (200, None)),
        (ended("FAILED"), (None, None)),
        (ended("STOPPED"), (None, "SIGTERM")),
    ],
    ids=str,
)
def test_exit_codes_and_signals(job: ClusterJob, expected: tuple[int | None, str | None]) -> None:
    assert exit_of(job) == expected


def test_a_process_that_was_lost_with_its_node_may_run_again() -> None:
    breach = lost(ended("FAILED"), None)
    assert breach is not None
    assert (breach.reason, breach.again) == ("WORKER_CRASHED", True)
    assert lost(ended("FAILED", 1), None) is None
    assert lost(ended("STOPPED"), None) is None
    assert lost(ended("FAILED"), CancelledMessage()) is None


def runner_of_nothing(tmp_path: Path, *, patience_s: float) -> tuple[RayRunner, Path]:
    """A runner whose cluster is not there, and the folder of a job."""
    pytest.importorskip("ray", reason="needs Ray, of the extra `ray`")
    (tmp_path / "store").mkdir()
    place = local_place(tmp_path / "store")
    artifact = Artifact(uri=place.uri("x"))
    spec = RankSpec(model=artifact, train_manifest=artifact, test_manifest=artifact, run=RunOptions(device=Device.CPU))
    folder = tmp_path / "uid"
    folder.mkdir()
    write_request(
        folder,
        JobRequest(
            name="projects/p/influenceJobs/j", uid="uid", attempt=1, spec=spec, output_uri_prefix=place.uri("out")
        ),
    )
    cluster = RayCluster(f"http://127.0.0.1:{free_port()}")
    return RayRunner(cluster, place.store, environ={}, patience_s=patience_s, poll_s=0.1), folder


async def test_a_cluster_that_stays_away_ends_the_run_with_a_reason(tmp_path: Path) -> None:
    runner, folder = runner_of_nothing(tmp_path, patience_s=0.5)
    report = await runner.run(folder, lambda _: None)
    assert report.breach is not None
    assert (report.breach.reason, report.breach.again) == ("CLUSTER_UNAVAILABLE", True)


@pytest.mark.parametrize("stop", ["cancel", "leave"])
async def test_a_run_that_waits_for_its_cluster_can_be_stopped(tmp_path: Path, stop: str) -> None:
    runner, folder = runner_of_nothing(tmp_path, patience_s=600)
    running = asyncio.create_task(runner.run(folder, lambda _: None))
    await asyncio.sleep(0)
    started = time.monotonic()
    getattr(runner, stop)(folder)
    assert await running == ExitReport(asked_to_stop=True)
    assert time.monotonic() - started < 30
