"""How a job of the cluster is followed, and how its end is told. On a real cluster: tests/integration/test_ray*.py."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.influence.job_folder import write_request
from services.influence.limits import JobLimits
from services.influence.messages import CancelledMessage, SucceededMessage
from services.influence.ray_cluster import ClusterJob, RayCluster
from services.influence.ray_exit import NO_ROOM, exit_of, lost
from services.influence.ray_runner import RayRunner
from services.influence.run_folder import RunFolder
from services.influence.runner import ExitReport
from services.influence.spec import Artifact, Device, JobRequest, RankSpec, RunOptions
from tests.ray_cluster import free_port
from tests.ray_job_server import HOUR_S, job_server
from tests.stores import Place, local_place
from tests.waiting import eventually


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


def test_a_cluster_that_had_no_place_for_the_job_is_told_apart() -> None:
    for fault in sorted(NO_ROOM):
        breach = lost(ClusterJob(submission_id="eif-u-1", status="FAILED", fault=fault), None)
        assert breach is not None
        assert (breach.reason, breach.again) == ("CLUSTER_UNAVAILABLE", True)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "store").mkdir()
    return local_place(tmp_path / "store")


@pytest.fixture
def folder(tmp_path: Path, place: Place) -> Path:
    """Of a job."""
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
    return folder


def runner_at(
    address: str, place: Place, *, patience_s: float = 0.5, timeout_s: float = 20.0, limits: JobLimits | None = None
) -> RayRunner:
    pytest.importorskip("ray", reason="needs Ray, of the extra `ray`")
    cluster = RayCluster(address, timeout_s=timeout_s)
    return RayRunner(cluster, place.store, environ={}, cpus=3, limits=limits, patience_s=patience_s, poll_s=0.05)


async def ended_run(runner: RayRunner, folder: Path) -> ExitReport:
    return await runner.run(folder, lambda _: None)


def reason_of(report: ExitReport) -> str | None:
    return report.breach.reason if report.breach is not None else None


@contextmanager
def silent_server() -> Iterator[str]:
    """Takes connections, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


async def test_a_cluster_that_stays_away_ends_the_run_with_a_reason(place: Place, folder: Path) -> None:
    report = await ended_run(runner_at(f"http://127.0.0.1:{free_port()}", place), folder)
    assert report.breach is not None
    assert (report.breach.reason, report.breach.again) == ("CLUSTER_UNAVAILABLE", True)


async def test_a_cluster_that_is_silent_is_away(place: Place, folder: Path) -> None:
    with silent_server() as address:
        report = await ended_run(runner_at(address, place, timeout_s=0.2), folder)
    assert reason_of(report) == "CLUSTER_UNAVAILABLE"


@pytest.mark.parametrize("status", [401, 403])
async def test_a_token_that_is_refused_has_a_reason_of_its_own(place: Place, folder: Path, status: int) -> None:
    with job_server(refusal=status) as server:
        report = await ended_run(runner_at(server.address, place), folder)
    assert reason_of(report) == "CLUSTER_DENIED"


def said(place: Place) -> RunFolder:
    """The folder of the run, where its process speaks."""
    return RunFolder(place.store, place.uri("out/uid/.run/1"))


async def test_the_wait_for_a_place_on_the_cluster_does_not_count_as_time_of_the_job(
    place: Place, folder: Path
) -> None:
    last = SucceededMessage(manifest_uri=place.uri("out/uid/MANIFEST.json"), manifest_sha256="0" * 64)
    with job_server("PENDING", "PENDING", "RUNNING", "RUNNING", "SUCCEEDED") as server:
        said(place).write_messages([last])
        report = await ended_run(runner_at(server.address, place, limits=JobLimits(time_s=HOUR_S / 2)), folder)
        assert server.submitted["entrypoint_num_cpus"] == 3
    assert report == ExitReport(last=last, exit_code=0, log_tail="eif-uid-1: SUCCEEDED.")
    assert "exit code 0" in (folder / "log.txt").read_text()
    assert not list(place.store.list(place.uri("out/")))


async def test_time_counts_from_the_start_of_the_process_also_for_the_next_server(place: Place, folder: Path) -> None:
    with job_server("RUNNING") as server:
        leaving = runner_at(server.address, place)
        first = asyncio.create_task(ended_run(leaving, folder))
        await eventually(lambda: bool(server.submitted))
        leaving.leave(folder)
        assert await first == ExitReport(asked_to_stop=True)
        place.store.put(f"{said(place).uri}/started", f"{time.time() - HOUR_S}".encode())
        report = await ended_run(runner_at(server.address, place, limits=JobLimits(time_s=HOUR_S / 2)), folder)
        assert server.stops == 1
    assert (reason_of(report), report.signal, report.asked_to_stop) == ("TIME_LIMIT_EXCEEDED", "SIGTERM", False)


async def test_a_job_that_was_submitted_without_an_answer_is_stopped_after_a_cancel(place: Place, folder: Path) -> None:
    with job_server("RUNNING") as server:
        server.fails_when_submitted = True
        runner = runner_at(server.address, place, patience_s=60)
        running = asyncio.create_task(ended_run(runner, folder))
        await eventually(lambda: bool(server.submitted))
        runner.cancel(folder)
        assert await running == ExitReport(asked_to_stop=True)
        server.refusal = None
        await runner.reap(folder)
        assert server.stops == 1


@pytest.mark.parametrize("stop", ["cancel", "leave"])
async def test_a_run_that_waits_for_its_cluster_can_be_stopped(place: Place, folder: Path, stop: str) -> None:
    runner = runner_at(f"http://127.0.0.1:{free_port()}", place, patience_s=600)
    running = asyncio.create_task(runner.run(folder, lambda _: None))
    await asyncio.sleep(0)
    started = time.monotonic()
    getattr(runner, stop)(folder)
    assert await running == ExitReport(asked_to_stop=True)
    assert time.monotonic() - started < 30
