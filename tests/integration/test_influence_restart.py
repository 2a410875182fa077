"""A service that is killed, stopped and started again loses nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import psutil
import pytest
from eif.influence.v1 import influence_service_pb2 as service_pb2
from eif.influence.v1 import job_pb2

from tests.conftest import REPO
from tests.influence_process import InfluenceProcess, influence_process

Step = dict[str, Any]

FOREVER: Step = {"do": "forever"}
SUCCEED: Step = {"do": "succeed", "tables": {}}


def rank_job(folder: Path, *steps: Step, train: str = "train.jsonl") -> job_pb2.InfluenceJob:
    """A rank job whose process follows the steps."""
    store = folder / "store"
    store.mkdir(exist_ok=True)
    for name, text in (("model.json", "{}"), ("test.csv", ""), (train, json.dumps(steps))):
        (store / name).write_text(text)
    return job_pb2.InfluenceJob(
        rank=job_pb2.RankSpec(
            model=job_pb2.ArtifactRef(uri=f"file://{store}/model.json"),
            train_manifest=job_pb2.ArtifactRef(uri=f"file://{store}/{train}"),
            test_manifest=job_pb2.ArtifactRef(uri=f"file://{store}/test.csv"),
        )
    )


def written(path: Path) -> str:
    """What a job process writes, once it has."""
    deadline = time.monotonic() + 30
    while not (path.exists() and path.read_text().endswith("\n")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return path.read_text()


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_job_in_the_middle_is_run_again(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    steps: list[Step] = [{"do": "append", "path": str(runs)}, {**FOREVER, "attempt": 1}, SUCCEED]
    with influence_process(tmp_path) as server:
        created = server.create(rank_job(tmp_path, *steps))
        waiting = server.create(rank_job(tmp_path, SUCCEED, train="second.jsonl"))
        _, orphan = written(runs).split()
        server.kill()
    with influence_process(tmp_path) as server:
        ended = server.ended(created)
        assert (ended.uid, ended.state, ended.attempt) == (created.uid, job_pb2.JOB_STATE_SUCCEEDED, 2)
        assert ended.start_time.ToNanoseconds() > created.create_time.ToNanoseconds()
        assert not is_alive(int(orphan))
        after = server.ended(waiting)
        assert (after.state, after.attempt) == (job_pb2.JOB_STATE_SUCCEEDED, 1)
        assert after.start_time.ToNanoseconds() > ended.start_time.ToNanoseconds()
        assert [line.split()[0] for line in runs.read_text().splitlines()] == ["1", "2"]


def test_a_restart_is_no_crash(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    steps: list[Step] = [
        {"do": "append", "path": str(runs)},
        *({**FOREVER, "attempt": attempt} for attempt in (1, 2)),
        SUCCEED,
    ]
    with influence_process(tmp_path, EIF_INFLUENCE_MAX_ATTEMPTS="1") as server:
        created = server.create(rank_job(tmp_path, *steps))
        written(runs)
        server.kill()
    for attempt in (2, 3):
        with influence_process(tmp_path, EIF_INFLUENCE_MAX_ATTEMPTS="1") as server:
            for job in server.watch(created):
                if job.state == job_pb2.JOB_STATE_RUNNING and job.attempt == attempt:
                    break
            if attempt == 3:
                assert server.ended(created).state == job_pb2.JOB_STATE_SUCCEEDED
            server.kill()


def test_a_result_that_was_written_stands(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with influence_process(tmp_path) as server:
        created = server.create(rank_job(tmp_path, SUCCEED, {"do": "touch", "path": str(mark)}, FOREVER))
        written(mark)
        server.kill()
    with influence_process(tmp_path) as server:
        ended = server.ended(created)
        assert (ended.state, ended.attempt) == (job_pb2.JOB_STATE_SUCCEEDED, 1)
        assert ended.output.manifest_sha256


def test_a_job_that_was_being_cancelled_is_cancelled(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    steps: list[Step] = [{"do": "ignore_sigterm"}, {"do": "touch", "path": str(mark)}, FOREVER]
    with influence_process(tmp_path, EIF_INFLUENCE_CANCEL_GRACE_S="60") as server:
        created = server.create(rank_job(tmp_path, *steps))
        orphan = int(written(mark))
        assert server.cancel(created).state == job_pb2.JOB_STATE_CANCELLING
        server.kill()
    with influence_process(tmp_path) as server:
        ended = server.ended(created)
        assert (ended.state, ended.attempt) == (job_pb2.JOB_STATE_CANCELLED, 1)
        assert not is_alive(orphan)


def test_what_ended_stays_as_it_was_and_requests_stay_known(tmp_path: Path) -> None:
    request_id = str(uuid.uuid4())
    job = rank_job(tmp_path, SUCCEED)
    with influence_process(tmp_path) as server:
        ended = server.ended(server.create(job, request_id=request_id))
        server.kill()
    with influence_process(tmp_path) as server:
        assert server.create(job, request_id=request_id) == ended
        listed = server.stub.ListInfluenceJobs(service_pb2.ListInfluenceJobsRequest(parent="projects/p"))
        assert list(listed.influence_jobs) == [ended]


def test_no_accepted_job_is_lost_when_the_server_is_killed_among_creates(tmp_path: Path) -> None:
    accepted = []
    job = rank_job(tmp_path, FOREVER)
    for _ in range(2):
        with influence_process(tmp_path) as server:
            accepted += [server.create(job).name for _ in range(5)]
            server.kill()
    with influence_process(tmp_path) as server:
        request = service_pb2.ListInfluenceJobsRequest(parent="projects/p")
        listed = [job.name for job in server.stub.ListInfluenceJobs(request).influence_jobs]
        assert listed == accepted[::-1]


def test_an_orderly_stop_ends_soon_and_the_next_server_goes_on(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    steps: list[Step] = [{"do": "append", "path": str(runs)}, {**FOREVER, "attempt": 1}, SUCCEED]
    with influence_process(tmp_path) as server:
        created = server.create(rank_job(tmp_path, *steps))
        _, process = written(runs).split()
        started = time.monotonic()
        assert server.terminate() == 0
        assert time.monotonic() - started < 10
        assert not is_alive(int(process))
    with influence_process(tmp_path) as server:
        ended = server.ended(created)
        assert (ended.state, ended.attempt) == (job_pb2.JOB_STATE_SUCCEEDED, 2)


def start_another(server: InfluenceProcess) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "services.influence", "--listen", "127.0.0.1:0", "--state-dir", server.folder / "state"],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_second_server_on_the_same_state_refuses_to_start(tmp_path: Path) -> None:
    with influence_process(tmp_path) as server:
        other = start_another(server)
        assert other.returncode == 2
        assert f"in use by another server (process {server.process.pid})" in other.stderr
        created = server.create(rank_job(tmp_path, SUCCEED))
        assert server.ended(created).state == job_pb2.JOB_STATE_SUCCEEDED


@pytest.mark.parametrize("stop", ["kill", "terminate"])
def test_its_state_is_free_again_after_it(tmp_path: Path, stop: str) -> None:
    with influence_process(tmp_path) as server:
        getattr(server, stop)()
    with influence_process(tmp_path) as server:
        assert server.process.poll() is None
