"""A Ray cluster that wants a token, is full, or loses the process of a job with its node: reasons, and second tries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from eif.influence.v1 import job_pb2

from tests import plugin
from tests.conftest import REPO
from tests.influence_app import refusal_in
from tests.influence_process import influence_process
from tests.job_world import JobWorld
from tests.ray_cluster import Cluster, ray_cluster
from tests.ray_jobs import (
    TEST,
    TRAIN,
    drivers,
    ended,
    pids,
    rank_job,
    slow_spec,
    submissions,
    table_digests,
    wait_for,
    wait_while_running,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TOKEN = "the-token-of-this-cluster-and-of-no-other"
RIGHT = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
START_TIMEOUT_S = 45


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ray-failures")


@pytest.fixture(scope="module")
def world(folder: Path) -> JobWorld:
    return JobWorld(folder / "world")


@pytest.fixture(scope="module")
def cluster(folder: Path) -> Iterator[Cluster]:
    """A head that runs no job itself: their processes run on nodes that may be lost."""
    environ = {
        "PYTHONPATH": f"{REPO}:{plugin.install(folder)}",
        "RAY_JOB_START_TIMEOUT_SECONDS": str(START_TIMEOUT_S),
        **RIGHT,
    }
    with ray_cluster(head_cpus=0, **environ) as running:
        yield running


@pytest.fixture
def serve(folder: Path, cluster: Cluster) -> Callable[..., Any]:
    """Start a server that runs its jobs on the cluster."""
    place = folder / "served"
    place.mkdir(exist_ok=True)
    environ = {
        "EIF_STORAGE_FILE_ROOTS": str(folder),
        "EIF_INFLUENCE_RAY_ADDRESS": cluster.address,
        "EIF_INFLUENCE_CACHE_SHARD_SAMPLES": "64",
        "HOME": str(place),  # where Ray looks for a token that nobody names
    }
    return lambda **more: influence_process(place, scripted=False, **environ, **more)


def here(folder: Path, job: job_pb2.InfluenceJob) -> job_pb2.InfluenceJob:
    """The same job where it is run by the server itself."""
    place = folder / f"local-{job.uid}"
    place.mkdir()
    environ = {"EIF_STORAGE_FILE_ROOTS": str(folder), "PYTHONPATH": f"{REPO}:{plugin.install(folder)}"}
    again = job_pb2.InfluenceJob(rank=job.rank, output_uri_prefix=f"{job.output_uri_prefix}-local")
    with influence_process(place, scripted=False, **environ) as server:
        return ended(server, server.create(again))


@pytest.mark.parametrize(
    "token",
    [
        {},
        {"RAY_AUTH_MODE": "token"},
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "that-of-another-cluster"},
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "no-such-file"},
    ],
    ids=["no mode", "no token", "wrong token", "no file"],
)
def test_a_server_without_the_token_says_so(
    world: JobWorld, cluster: Cluster, serve: Callable[..., Any], token: dict[str, str]
) -> None:
    spec = world.rank_spec(train=30, test=18)
    limits = {"EIF_INFLUENCE_RAY_PATIENCE_S": "1", "EIF_INFLUENCE_MAX_ATTEMPTS": "1"}
    with serve(**limits, **token) as server:
        failed = ended(server, server.create(rank_job(spec, world.place.uri("refused"))))
        assert server.process.poll() is None
    refused = refusal_in(failed.error)
    assert (failed.state, refused.reason) == (job_pb2.JOB_STATE_FAILED, "CLUSTER_DENIED")
    assert "RAY_AUTH_TOKEN_PATH" in refused.message
    assert "that-of-another-cluster" not in refused.message + server.log.read_text()
    assert submissions(cluster, failed) == []


def test_a_job_that_waits_for_a_place_is_cancelled_at_once(
    world: JobWorld, cluster: Cluster, serve: Callable[..., Any]
) -> None:
    spec = world.rank_spec()
    with serve(**RIGHT) as server:
        created = server.create(rank_job(spec, world.place.uri("waiting")))
        wait_while_running(server, created, lambda: bool(submissions(cluster, created)))
        server.cancel(created)
        assert ended(server, created).state == job_pb2.JOB_STATE_CANCELLED
        assert [each["status"] for each in submissions(cluster, created)] == ["PENDING"]
        again = server.create(rank_job(spec, world.place.uri("waiting")))
        wait_while_running(server, again, lambda: bool(submissions(cluster, again)))
        server.cancel(again)
        server.kill()
    with serve(**RIGHT) as server:
        assert ended(server, again).state == job_pb2.JOB_STATE_CANCELLED
        assert [each["status"] for each in submissions(cluster, again)] == ["PENDING"]


def test_a_cluster_without_a_place_for_the_job_says_so(
    world: JobWorld, cluster: Cluster, serve: Callable[..., Any]
) -> None:
    with serve(EIF_INFLUENCE_MAX_ATTEMPTS="1", **RIGHT) as server:
        failed = ended(server, server.create(rank_job(world.rank_spec(), world.place.uri("no-place"))))
    refused = refusal_in(failed.error)
    assert (failed.state, refused.reason) == (job_pb2.JOB_STATE_FAILED, "CLUSTER_UNAVAILABLE")
    assert "RAY_JOB_START_TIMEOUT_SECONDS" in refused.message
    assert [each["status"] for each in submissions(cluster, failed)] == ["FAILED"]


def test_a_job_that_holds_all_places_works_on_its_shards_itself(
    world: JobWorld, cluster: Cluster, serve: Callable[..., Any], folder: Path
) -> None:
    notes = folder / "notes-full"
    spec = slow_spec(world, notes, seconds=0.1)
    node = cluster.add()
    wait_for(lambda: cluster.size() == 2)
    with serve(EIF_INFLUENCE_RAY_CPUS="2", **RIGHT) as server:
        created = server.create(rank_job(spec, world.place.uri("full")))
        wait_while_running(server, created, lambda: bool(pids(notes)))
        (driver,) = drivers(created)
        done = ended(server, created)
    node.kill()
    wait_for(lambda: cluster.size() == 1)
    assert pids(notes) == {driver.pid}
    assert done.output.figures["feature_cache_misses"] == TRAIN + TEST
    assert table_digests(done) == table_digests(here(folder, done))


def test_a_job_whose_process_is_lost_with_its_node_runs_again_from_the_shards_that_were_kept(
    world: JobWorld, cluster: Cluster, serve: Callable[..., Any], folder: Path
) -> None:
    spec = slow_spec(world, folder / "notes-driver", seconds=2.0)
    results = world.folder / "objects" / "driver"
    first = cluster.add()
    wait_for(lambda: cluster.size() == 2)
    with serve(**RIGHT) as server:
        created = server.create(rank_job(spec, world.place.uri("driver")))
        wait_while_running(server, created, lambda: len(list((results / "cache").glob("features/*/*"))) >= 2)
        (driver,) = drivers(created)
        assert driver.pid in first.members()
        cluster.add()
        first.kill()
        wait_while_running(server, created, lambda: server.get(created).attempt == 2)
        assert not list((results / created.uid).glob("MANIFEST.json"))
        done = ended(server, created)
    assert done.attempt == 2
    assert done.output.figures["feature_cache_hits"] >= 2 * 36
    assert sorted(each["status"] for each in submissions(cluster, created)) == ["FAILED", "SUCCEEDED"]
    assert "WORKER_CRASHED" in (server.state_dir / "jobs" / done.uid / "log.txt").read_text()
    assert table_digests(done) == table_digests(here(folder, done))
