"""Probes and metrics of a real server, after real calls and jobs."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import grpc
import pytest
from eif.influence.v1 import influence_service_pb2 as service_pb2
from eif.influence.v1 import job_pb2

from tests.influence_process import InfluenceProcess, influence_process
from tests.job_world import JobWorld
from tests.ops import Scrape, fetch, scrape

FREE_PORT = "127.0.0.1:0"


def scripted_job(
    server: InfluenceProcess, *steps: Mapping[str, object], name: str = "train.jsonl"
) -> job_pb2.InfluenceJob:
    """A job whose process follows the steps."""
    files = {"model/model.json": "{}", name: json.dumps(steps), "test.csv": ""}
    for file, text in files.items():
        path = server.folder / "store" / file
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    uri = f"file://{server.folder}/store"
    spec = job_pb2.RankSpec(
        model=job_pb2.ArtifactRef(uri=f"{uri}/model/model.json"),
        train_manifest=job_pb2.ArtifactRef(uri=f"{uri}/{name}"),
        test_manifest=job_pb2.ArtifactRef(uri=f"{uri}/test.csv"),
    )
    return server.create(job_pb2.InfluenceJob(rank=spec))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InfluenceProcess]:
    """A server with jobs that ended in several ways, one that runs and one that waits."""
    with influence_process(tmp_path_factory.mktemp("influence"), EIF_INFLUENCE_OPS_LISTEN=FREE_PORT) as server:
        progress = {"do": "progress", "done": 1, "total": 2}
        totals = {
            "type": "totals",
            "cache_hits": 3,
            "cache_misses": 4,
            "storage_requests": [
                {"op": "read", "code": "OK", "count": 7},
                {"op": "read", "code": "MADE_UP", "count": 1},
                {"op": "made_up", "code": "OK", "count": 9},
            ],
            "storage_bytes": {"read": 1000},
            "storage_seconds": {"read": 0.5},
            "shard_attempts": {"succeeded": 2, "made_up": 5},
        }
        tell = {"do": "print", "text": json.dumps(totals) + "\n"}
        more = {"do": "print", "text": json.dumps(totals | {"cache_hits": 10}) + "\n"}
        inputs = progress | {"stage": "inputs"}
        server.ended(scripted_job(server, inputs, tell, progress, more, {"do": "succeed"}, name="ok.jsonl"))
        failing = {"do": "fail", "reason": "MANIFEST_INVALID", "message": "line 3"}
        server.ended(scripted_job(server, failing, name="bad.jsonl"))
        crash = {"do": "kill", "signal": signal.SIGKILL, "attempt": 1}
        server.ended(scripted_job(server, crash, {"do": "succeed"}, name="crash.jsonl"))
        hostile = [progress | {"stage": f"stage_{number}"} for number in range(50)]
        server.ended(
            scripted_job(server, *hostile, progress | {"stage": "No Label!"}, {"do": "succeed"}, name="h.jsonl")
        )
        running = scripted_job(server, {"do": "forever"}, name="forever.jsonl")
        _until(server, running, job_pb2.JOB_STATE_RUNNING)
        scripted_job(server, {"do": "succeed"}, name="waits.jsonl")
        yield server


@pytest.fixture(scope="module")
def scraped(server: InfluenceProcess) -> Scrape:
    with pytest.raises(grpc.RpcError):
        server.stub.GetInfluenceJob(service_pb2.GetInfluenceJobRequest(name="projects/p/influenceJobs/none"), timeout=9)
    return scrape(server.ops_address)


def _until(server: InfluenceProcess, job: job_pb2.InfluenceJob, state: int) -> None:
    assert any(each.state == state for each in server.watch(job))


def test_jobs_are_counted_by_state_and_kind(scraped: Scrape) -> None:
    assert scraped.value("eif_jobs", state="succeeded", kind="rank") == 3
    assert scraped.value("eif_jobs", state="failed", kind="rank") == 1
    assert scraped.value("eif_jobs", state="running", kind="rank") == 1
    assert scraped.value("eif_jobs", state="pending", kind="rank") == 1
    assert scraped.value("eif_jobs", kind="audit") == 0
    assert scraped.value("eif_queue_waiting_jobs") == 1
    assert 0 <= scraped.value("eif_queue_oldest_waiting_seconds") < 60
    assert scraped.value("eif_job_table_up") == 1


def test_how_jobs_and_their_attempts_ended(scraped: Scrape) -> None:
    assert scraped.value("eif_job_duration_seconds_count", kind="rank", outcome="succeeded") == 3
    assert scraped.value("eif_job_duration_seconds_count", kind="rank", outcome="failed") == 1
    assert scraped.value("eif_job_failures_total", kind="rank", reason="MANIFEST_INVALID") == 1
    attempts = {
        each: scraped.value("eif_job_attempts_total", outcome=each) for each in ("succeeded", "failed", "crashed")
    }
    assert attempts == {"succeeded": 3, "failed": 1, "crashed": 1}


def test_stages_are_timed_and_their_names_are_bounded(scraped: Scrape) -> None:
    assert scraped.value("eif_job_stage_seconds_count", kind="rank", stage="inputs") == 1
    assert scraped.value("eif_job_stage_seconds_count", kind="rank", stage="features") >= 1
    stages = {labels["stage"] for labels in scraped.labels("eif_job_stage_seconds_count")}
    assert len(stages) == 33
    assert scraped.value("eif_job_stage_seconds_count", stage="other") > 1
    assert "No Label!" not in stages


def test_what_job_processes_tell_is_added_once_under_known_labels(scraped: Scrape) -> None:
    assert scraped.value("eif_feature_cache_hits_total") == 10
    assert scraped.value("eif_feature_cache_misses_total") == 4
    assert scraped.value("eif_samples_processed_total") == 14
    assert scraped.value("eif_storage_requests_total", process="job", op="read", code="OK") == 7
    assert scraped.value("eif_storage_requests_total", process="job", op="read", code="INTERNAL") == 1
    assert scraped.value("eif_storage_bytes_total", process="job", op="read") == 1000
    assert scraped.value("eif_storage_seconds_total", process="job", op="read") == 0.5
    assert scraped.value("eif_shard_attempts_total", outcome="succeeded") == 2
    told = {value for sample in scraped.samples for value in sample.labels.values()}
    assert not {"made_up", "MADE_UP"} & told


def test_calls_storage_and_the_process_are_measured(scraped: Scrape) -> None:
    service = "eif.influence.v1.InfluenceService"
    create = {"grpc_service": service, "grpc_method": "CreateInfluenceJob", "grpc_code": "OK"}
    assert scraped.value("grpc_server_handled_total", **create) == 6
    assert scraped.value("grpc_server_handled_total", grpc_method="GetInfluenceJob", grpc_code="NotFound") == 1
    assert scraped.value("eif_call_failures_total", grpc_method="GetInfluenceJob", reason="JOB_NOT_FOUND") == 1
    assert scraped.value("grpc_server_msg_sent_total", grpc_method="WatchInfluenceJob") > 5
    assert scraped.value("eif_storage_requests_total", process="server", op="head", code="OK") >= 18
    assert scraped.value("eif_table_cache_bytes") == 0
    assert scraped.value("process_resident_memory_bytes") > 10 << 20
    assert scraped.value("eif_build_info", service="influence") == 1


def test_labels_hold_no_names_of_jobs_or_objects(scraped: Scrape, server: InfluenceProcess) -> None:
    told = {value for sample in scraped.samples for value in sample.labels.values()}
    assert not any("/" in value or str(server.folder) in value for value in told)


def test_a_scrape_asks_the_job_table_at_most_every_few_seconds(server: InfluenceProcess) -> None:
    before = scrape(server.ops_address).value("eif_jobs", kind="rank")
    scripted_job(server, {"do": "succeed"}, name="later.jsonl")
    deadline = time.monotonic() + 20
    while scrape(server.ops_address).value("eif_jobs", kind="rank") == before:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_probes_say_ok(server: InfluenceProcess) -> None:
    assert fetch(server.ops_address, "/livez").checks == {"event_loop": "ok", "job_table_threads": "ok"}
    assert fetch(server.ops_address, "/readyz").checks == {"started": "ok", "accepting": "ok", "job_table": "ok"}
    assert fetch(server.ops_address, "/startupz").status == 200


def test_a_draining_server_is_live_but_not_ready_at_once(tmp_path: Path) -> None:
    with influence_process(tmp_path, EIF_INFLUENCE_OPS_LISTEN=FREE_PORT, EIF_INFLUENCE_DRAIN_S="20") as server:
        job = scripted_job(
            server, {"do": "ignore_sigterm"}, {"do": "touch", "path": str(tmp_path / "on")}, {"do": "forever"}
        )
        _wait_for(tmp_path / "on")
        watch = server.stub.WatchInfluenceJob(service_pb2.WatchInfluenceJobRequest(name=job.name), timeout=60)
        next(watch)
        os.kill(server.process.pid, signal.SIGTERM)
        deadline = time.monotonic() + 5
        while (page := fetch(server.ops_address, "/readyz")).status == 200:
            assert time.monotonic() < deadline
        assert page.status == 503
        assert page.checks["accepting"] == "this server stops"
        assert fetch(server.ops_address, "/livez").status == 200
        watch.cancel()
        assert server.process.wait(60) == 0


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_without_the_setting_there_is_no_port(tmp_path: Path) -> None:
    with influence_process(tmp_path) as server:
        assert server.ops_address == ""


def test_a_real_job_tells_what_it_read_and_computed(tmp_path: Path) -> None:
    world = JobWorld(tmp_path / "world")
    spec = world.rank_spec()
    with influence_process(tmp_path, scripted=False, EIF_INFLUENCE_OPS_LISTEN=FREE_PORT) as server:
        pb = job_pb2.RankSpec(
            model=job_pb2.ArtifactRef(uri=spec.model.uri),
            train_manifest=job_pb2.ArtifactRef(uri=spec.train_manifest.uri),
            test_manifest=job_pb2.ArtifactRef(uri=spec.test_manifest.uri),
        )
        first, second = [server.ended(server.create(job_pb2.InfluenceJob(rank=pb))) for _ in range(2)]
        assert (first.state, second.state) == (job_pb2.JOB_STATE_SUCCEEDED,) * 2, (first.error, second.error)
        scraped = scrape(server.ops_address)
    assert scraped.value("eif_samples_processed_total") == 2 * 48
    assert scraped.value("eif_feature_cache_misses_total") == 48
    assert scraped.value("eif_feature_cache_hits_total") == 48
    assert scraped.value("eif_storage_requests_total", process="job", op="read", code="OK") >= 48
    assert scraped.value("eif_storage_bytes_total", process="job", op="put") > 1000
    assert scraped.value("eif_storage_seconds_total", process="job", op="put") > 0
    stages = {labels["stage"] for labels in scraped.labels("eif_job_stage_seconds_count")}
    assert {"inputs", "features", "confusions", "influence", "results"} <= stages
