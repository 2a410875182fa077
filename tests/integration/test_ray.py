"""Jobs on a real Ray cluster of two nodes, from a real server: the results are those of this machine, bit by bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from eif.influence.v1 import job_pb2

from services.influence.spec import AuditSpec, InfluenceOptions, PublishedStepsOptions
from services.influence.spec_writer import write_audit
from tests import plugin
from tests.conftest import REPO
from tests.influence_app import refusal_in
from tests.influence_process import InfluenceProcess, influence_process
from tests.job_world import SIDE, JobWorld, png
from tests.ray_cluster import Cluster, ray_cluster
from tests.ray_jobs import (
    TEST,
    TRAIN,
    counted,
    drivers,
    ended,
    is_busy,
    pids,
    rank_job,
    shard_attempts,
    slow_spec,
    submissions,
    table_digests,
    wait_for,
    wait_while_running,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SLOW_STEPS = 3000
"""Gradient steps of a confusion that make a shard of scores take seconds."""
SCORE_SHARDS = 5
"""Of 1,200 samples, 256 each."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ray")


@pytest.fixture(scope="module")
def world(folder: Path) -> JobWorld:
    return JobWorld(folder / "world")


@pytest.fixture(scope="module")
def cluster(folder: Path) -> Iterator[Cluster]:
    """A head alone: the driver of a job that is submitted now runs there."""
    with ray_cluster(PYTHONPATH=f"{REPO}:{plugin.install(folder)}") as running:
        yield running


@pytest.fixture(scope="module")
def local(folder: Path) -> Iterator[InfluenceProcess]:
    """A server that runs its jobs itself."""
    place = folder / "local"
    place.mkdir()
    environ = {"EIF_STORAGE_FILE_ROOTS": str(folder), "PYTHONPATH": f"{REPO}:{plugin.install(folder)}"}
    with influence_process(place, scripted=False, **environ) as server:
        yield server


@pytest.fixture
def serve(folder: Path, cluster: Cluster) -> Callable[[], Any]:
    """Start a server that runs its jobs on the cluster; every one on the same state."""
    place = folder / "served"
    place.mkdir(exist_ok=True)
    environ = {
        "EIF_STORAGE_FILE_ROOTS": str(folder),
        "EIF_INFLUENCE_RAY_ADDRESS": cluster.address,
        "EIF_INFLUENCE_MAX_RUNNING_JOBS": "2",
        "EIF_INFLUENCE_CACHE_SHARD_SAMPLES": "64",
        "EIF_INFLUENCE_SCORE_SHARD_SAMPLES": "256",
        "EIF_INFLUENCE_OPS_LISTEN": "127.0.0.1:0",
    }
    return lambda: influence_process(place, scripted=False, **environ)


def test_a_node_that_is_lost_in_the_middle_changes_nothing(
    world: JobWorld, cluster: Cluster, serve: Callable[[], Any], local: InfluenceProcess, folder: Path
) -> None:
    notes = folder / "notes-lost"
    spec = slow_spec(world, notes, seconds=3.0)
    with serve() as server:
        created = server.create(rank_job(spec, world.place.uri("lost")))
        wait_while_running(
            server, created, lambda: [each["status"] for each in submissions(cluster, created)] == ["RUNNING"]
        )
        node = cluster.add()
        wait_while_running(server, created, lambda: bool(pids(notes) & node.members()))
        node.kill()
        done = ended(server, created)
        assert shard_attempts(server, "retried") > 0
        assert shard_attempts(server, "failed") == 0
    assert done.attempt == 1
    again = ended(local, local.create(rank_job(spec, world.place.uri("lost-local"))))
    assert table_digests(done) == table_digests(again)
    assert done.output.figures["feature_cache_misses"] == again.output.figures["feature_cache_misses"] == TRAIN + TEST


@pytest.fixture(scope="module")
def two_nodes(cluster: Cluster) -> Cluster:
    """The head, and a node that stays."""
    cluster.add()
    wait_for(lambda: cluster.size() == 2)
    return cluster


@pytest.mark.usefixtures("two_nodes")
def test_a_rank_job_and_an_audit_are_the_same_as_here(
    world: JobWorld, serve: Callable[[], Any], local: InfluenceProcess
) -> None:
    spec = world.rank_spec(train=TRAIN, test=TEST)
    audit = AuditSpec(model=spec.model, train_manifest=spec.train_manifest, test_manifest=spec.test_manifest, proofs=1)

    def both(prefix: str) -> list[job_pb2.InfluenceJob]:
        prefix = world.place.uri(prefix)
        audited = job_pb2.InfluenceJob(audit=write_audit(audit), output_uri_prefix=prefix)
        return [rank_job(spec, prefix), audited]

    with serve() as server:
        there = [ended(server, server.create(job)) for job in both("there")]
        assert there[0].output.figures["feature_cache_misses"] == TRAIN + TEST
        assert there[1].output.figures["feature_cache_misses"] == 0  # kept by the shards of the first
        # Two shards of scores, and seven and one of features.
        assert shard_attempts(server, "succeeded") == 10
        # Images are read by the tasks alone.
        assert counted(server, "eif_storage_requests_total", 'process="job"', 'op="read"', 'code="OK"') >= TRAIN + TEST
    here = [ended(local, local.create(job)) for job in both("here")]
    for one, other in zip(there, here, strict=True):
        assert table_digests(one) == table_digests(other)
        assert not list((world.folder / "objects" / "there" / one.uid).glob(".run/*/*"))


@pytest.mark.usefixtures("two_nodes")
def test_a_node_that_is_lost_while_it_scores_changes_nothing(
    world: JobWorld, cluster: Cluster, serve: Callable[[], Any], local: InfluenceProcess, folder: Path
) -> None:
    step = PublishedStepsOptions(steps=SLOW_STEPS, learning_rate=1e-7)
    spec = slow_spec(world, folder / "notes-scores", seconds=0.0, train=1200, influence=InfluenceOptions(step=step))
    kept = world.folder / "objects" / "scores" / "cache" / "scores"
    node = cluster.add()
    wait_for(lambda: cluster.size() == 3)
    with serve() as server:
        created = server.create(rank_job(spec, world.place.uri("scores")))
        wait_while_running(server, created, lambda: server.get(created).progress.stage == "influence")
        wait_while_running(server, created, lambda: any(is_busy(pid) for pid in node.members()))
        assert len(list(kept.glob("*"))) < SCORE_SHARDS
        node.kill()
        done = ended(server, created)
        assert shard_attempts(server, "retried") > 0
        assert shard_attempts(server, "failed") == 0
    assert done.attempt == 1
    assert len(list(kept.glob("*"))) == SCORE_SHARDS
    again = ended(local, local.create(rank_job(spec, world.place.uri("scores-local"))))
    assert table_digests(done) == table_digests(again)


@pytest.mark.usefixtures("two_nodes")
@pytest.mark.parametrize("stop", ["kill", "terminate"])
def test_a_server_that_starts_again_goes_on_with_the_job(
    world: JobWorld, cluster: Cluster, serve: Callable[[], Any], folder: Path, stop: str
) -> None:
    notes = folder / f"notes-{stop}"
    spec = slow_spec(world, notes, seconds=2.0)
    with serve() as server:
        created = server.create(rank_job(spec, world.place.uri(f"restart-{stop}")))
        wait_while_running(server, created, lambda: bool(pids(notes)))
        getattr(server, stop)()
    with serve() as server:
        done = ended(server, created)
        assert table_digests(done)
        assert done.progress.stages_done > 0
    assert [each["status"] for each in submissions(cluster, created)] == ["SUCCEEDED"]
    assert done.output.figures["feature_cache_misses"] == TRAIN + TEST


@pytest.mark.usefixtures("two_nodes")
def test_a_process_that_is_killed_is_run_again_from_the_shards_that_were_kept(
    world: JobWorld, cluster: Cluster, serve: Callable[[], Any], folder: Path
) -> None:
    spec = slow_spec(world, folder / "notes-killed", seconds=1.0)
    features = world.folder / "objects" / "killed" / "cache" / "features"
    with serve() as server:
        created = server.create(rank_job(spec, world.place.uri("killed")))
        wait_while_running(server, created, lambda: len(list(features.glob("*/*.safetensors"))) >= 2)
        (driver,) = drivers(created)
        driver.kill()
        done = ended(server, created)
        assert shard_attempts(server, "failed") == 0
    assert table_digests(done)
    assert done.attempt == 2
    assert done.output.figures["feature_cache_hits"] >= 2 * 36
    assert done.output.figures["feature_cache_misses"] < TRAIN + TEST
    assert sorted(each["status"] for each in submissions(cluster, created)) == ["FAILED", "SUCCEEDED"]
    assert drivers(created) == []


@pytest.mark.usefixtures("two_nodes")
def test_a_cancel_ends_the_job_and_its_tasks(
    world: JobWorld, cluster: Cluster, serve: Callable[[], Any], folder: Path
) -> None:
    notes = folder / "notes-cancel"
    with serve() as server:
        created = server.create(rank_job(slow_spec(world, notes, seconds=30.0), world.place.uri("cancel")))
        wait_while_running(server, created, lambda: bool(pids(notes)))
        assert any(is_busy(pid) for pid in pids(notes))
        assert server.cancel(created).state == job_pb2.JOB_STATE_CANCELLING
        done = ended(server, created)
    assert done.state == job_pb2.JOB_STATE_CANCELLED
    assert [each["status"] in {"STOPPED", "SUCCEEDED"} for each in submissions(cluster, created)] == [True]
    wait_for(lambda: not any(is_busy(pid) for pid in pids(notes)))


@pytest.mark.usefixtures("two_nodes")
def test_a_cancel_that_a_dead_server_began_is_finished(
    world: JobWorld, cluster: Cluster, serve: Callable[[], Any], folder: Path
) -> None:
    notes = folder / "notes-dead"
    with serve() as server:
        created = server.create(rank_job(slow_spec(world, notes, seconds=30.0), world.place.uri("dead")))
        wait_while_running(server, created, lambda: bool(pids(notes)))
        server.cancel(created)
        server.kill()
    with serve() as server:
        assert ended(server, created).state == job_pb2.JOB_STATE_CANCELLED
    assert all(each["status"] != "RUNNING" for each in submissions(cluster, created))


@pytest.mark.usefixtures("two_nodes")
def test_a_poison_shard_fails_its_job_after_three_tries_and_the_queue_goes_on(
    world: JobWorld, serve: Callable[[], Any], folder: Path
) -> None:
    notes = folder / "notes-poison"
    notes.mkdir()
    samples = world.samples("poisoned", TRAIN)
    white = png(np.full((SIDE, SIDE), 255, dtype=np.uint8))
    samples[70] = {"id": "white", "uri": world.put("white.png", white), "label": "ant"}
    model = world.bundle("poison", architecture="poison", options={"above": 0.99, "notes": str(notes)})
    poisoned = world.rank_spec(train_manifest=world.manifest("poisoned.jsonl", samples), model=model, test=TEST)
    healthy = world.rank_spec(train=TRAIN, test=TEST)
    with serve() as server:
        created = [server.create(rank_job(spec, world.place.uri("poison"))) for spec in (poisoned, healthy)]
        failed, succeeded = [ended(server, job) for job in created]
    refused = refusal_in(failed.error)
    assert (failed.state, refused.reason) == (job_pb2.JOB_STATE_FAILED, "INTERNAL")
    assert "failed 3 times" in refused.message
    assert "s3cret" not in refused.message
    assert refused.metadata["shard"].startswith("shard of ")
    assert len(list(notes.iterdir())) == 3
    assert table_digests(succeeded)


@pytest.mark.usefixtures("two_nodes")
def test_a_bad_manifest_fails_with_its_own_reason_and_is_not_run_again(
    world: JobWorld, cluster: Cluster, serve: Callable[[], Any]
) -> None:
    spec = world.rank_spec(train_manifest=world.manifest("bad.jsonl", [{"id": "a"}]), test=TEST)
    with serve() as server:
        done = ended(server, server.create(rank_job(spec, world.place.uri("bad"))))
    assert refusal_in(done.error).reason == "MANIFEST_INVALID"
    assert len(submissions(cluster, done)) == 1
