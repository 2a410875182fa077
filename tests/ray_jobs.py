"""Jobs for tests of a Ray cluster, and what the cluster, its processes and the metrics of a server say of them."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from eif.influence.v1 import job_pb2

from services.influence.spec import RankSpec
from services.influence.spec_writer import write_rank
from tests.influence_app import ENDED
from tests.influence_process import InfluenceProcess
from tests.job_world import JobWorld
from tests.ray_cluster import Cluster

TRAIN, TEST = 400, 36


def rank_job(spec: RankSpec, output: str) -> job_pb2.InfluenceJob:
    """With an output prefix of its own no job finds features of another."""
    return job_pb2.InfluenceJob(rank=write_rank(spec), output_uri_prefix=output)


def slow_spec(world: JobWorld, notes: Path, *, seconds: float, train: int = TRAIN, **options: Any) -> RankSpec:
    """Each batch takes its time, and the process that works on it leaves a note."""
    notes.mkdir(parents=True, exist_ok=True)
    slow = {"seconds": seconds, "notes": str(notes)}
    model = world.bundle(f"slow-{notes.name}", architecture="slow", options=slow)
    return world.rank_spec(train=train, test=TEST, model=model, **options)


def table_digests(job: job_pb2.InfluenceJob) -> dict[str, str]:
    assert job.state == job_pb2.JOB_STATE_SUCCEEDED, job.error
    return {table.name: table.sha256 for table in job.output.tables}


def submissions(cluster: Cluster, job: job_pb2.InfluenceJob) -> list[dict[str, Any]]:
    """What the cluster knows of a job."""
    return [each for each in cluster.get("api/jobs/") if (each["submission_id"] or "").startswith(f"eif-{job.uid}-")]


def wait_for(condition: Callable[[], bool], *, within_s: float = 240.0) -> None:
    """However long a busy machine takes."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def wait_while_running(server: InfluenceProcess, job: job_pb2.InfluenceJob, condition: Callable[[], bool]) -> None:
    """Wait for a condition that must come before the end of the job."""

    def holds() -> bool:
        found, now = condition(), server.get(job)
        assert now.state in {job_pb2.JOB_STATE_PENDING, job_pb2.JOB_STATE_RUNNING}, now
        return found

    wait_for(holds)


def ended(server: InfluenceProcess, job: job_pb2.InfluenceJob) -> job_pb2.InfluenceJob:
    """The job at its end."""
    wait_for(lambda: server.get(job).state in ENDED, within_s=400.0)
    return server.get(job)


def counted(server: InfluenceProcess, metric: str, *labels: str) -> float:
    """What the metrics of a server say, over all series that have these labels (`name="value"`)."""
    with urllib.request.urlopen(f"http://{server.ops_address}/metrics", timeout=30) as reply:
        lines = reply.read().decode().splitlines()
    found = [line for line in lines if line.startswith(f"{metric}{{") and all(label in line for label in labels)]
    return sum(float(line.rpartition(" ")[2]) for line in found)


def shard_attempts(server: InfluenceProcess, outcome: str) -> float:
    return counted(server, "eif_shard_attempts_total", f'outcome="{outcome}"')


def pids(notes: Path) -> set[int]:
    """Of the processes that have left a note."""
    return {int(path.name) for path in notes.iterdir()}


def drivers(job: job_pb2.InfluenceJob) -> list[psutil.Process]:
    """The processes of a job, wherever the cluster runs them."""
    return [
        process
        for process in psutil.process_iter()
        for line in [_command(process.pid)]
        if "services.influence.worker" in line[:4] and any(job.uid in word for word in line)
    ]


def is_busy(pid: int) -> bool:
    """Whether a process works on a shard now."""
    with suppress(psutil.NoSuchProcess):
        if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return False
    return "work_on_shard" in " ".join(_command(pid))


def _command(pid: int) -> list[str]:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).cmdline()
    return []
