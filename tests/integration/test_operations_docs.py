"""What docs/operations.md tells operators to type to keep the job table, typed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from eif.influence.v1 import job_pb2

from tests.benchmarks.load.jobs import FOREVER, job_of
from tests.conftest import REPO
from tests.databases import real_postgres
from tests.influence_process import InfluenceProcess, influence_process
from tests.postgres import Postgres, find_postgres

DONE = {"do": "fail", "reason": "MANIFEST_INVALID", "message": "m"}


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with real_postgres() as server:
        yield server


def blocks() -> list[str]:
    """SQLite: backup, restore; PostgreSQL: backup, restore."""
    manual = (REPO / "docs" / "operations.md").read_text()
    section = manual[manual.index("### Backup and restore") : manual.index("### Upgrades")]
    return re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)


def typed(script: str, folder: Path, **variables: str) -> None:
    folders = [Path(sys.executable).parent, find_postgres(), os.environ["PATH"]]
    path = os.pathsep.join(str(each) for each in folders if each)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": path, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def check_round_trip(folder: Path, backup: str, restore: str, variables: dict[str, str], **environ: str) -> None:
    """Jobs of before the backup are there after the restore, as they were or run again; later ones are not."""
    with influence_process(folder, scripted=True, **environ) as server:
        ended = server.ended(server.create(job_of(server, DONE)))
        assert ended.state == job_pb2.JOB_STATE_FAILED
        running = server.create(job_of(server, FOREVER))
        typed(backup, folder, **variables)
        later = server.create(job_of(server, FOREVER))
        server.cancel(running)
        assert server.ended(running).state == job_pb2.JOB_STATE_CANCELLED
        server.terminate()
    typed(restore, folder, **variables)
    with influence_process(folder, scripted=True, **environ) as server:
        assert server.get(ended) == ended
        with pytest.raises(grpc.RpcError, match="there is no job"):
            server.get(later)
        states = (seen.state for seen in server.watch(running))
        assert job_pb2.JOB_STATE_RUNNING in states
        made = server.create(job_of(server, FOREVER))
        assert server.get(made).uid == made.uid
        stop_all(server, running, made)


def stop_all(server: InfluenceProcess, *jobs: job_pb2.InfluenceJob) -> None:
    for job in reversed(jobs):
        server.cancel(job)
        assert server.ended(job).state == job_pb2.JOB_STATE_CANCELLED


def test_a_job_table_in_a_file_is_backed_up_and_restored(tmp_path: Path) -> None:
    backup, restore, _, _ = blocks()
    check_round_trip(tmp_path, backup, restore, {"EIF_INFLUENCE_STATE_DIR": str(tmp_path / "state")})


def test_a_job_table_in_postgresql_is_backed_up_and_restored(tmp_path: Path, postgres: Postgres) -> None:
    _, _, backup, restore = blocks()
    variables = {"EIF_INFLUENCE_DATABASE_URL": postgres.create(f"jobs_{uuid.uuid4().hex}")}
    check_round_trip(tmp_path, backup, restore, variables, **variables)
