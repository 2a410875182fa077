"""A real job whose server is killed: another server finishes it, and its tables are those of a run in peace."""

from __future__ import annotations

import uuid
from pathlib import Path

from eif.influence.v1 import job_pb2

from services.influence.spec_writer import write_rank
from tests.influence_process import InfluenceProcess, influence_process
from tests.job_world import JobWorld
from tests.postgres import Postgres


def tables(job: job_pb2.InfluenceJob) -> dict[str, tuple[str, int]]:
    assert job.state == job_pb2.JOB_STATE_SUCCEEDED
    return {table.name: (table.sha256, table.rows) for table in job.output.tables}


def finishes(owner: InfluenceProcess, other: InfluenceProcess, job: job_pb2.InfluenceJob) -> job_pb2.InfluenceJob:
    """Kill the owner in the middle of the job; what becomes of it on the other server."""
    created = owner.create(job)
    for seen in owner.watch(created):
        if seen.progress.stage:
            break
    owner.kill()
    return other.ended(created)


def test_another_server_finishes_a_real_job_with_the_same_tables(postgres: Postgres, tmp_path: Path) -> None:
    settings = {
        "EIF_INFLUENCE_DATABASE_URL": postgres.create(f"jobs_{uuid.uuid4().hex}"),
        "EIF_INFLUENCE_LEASE_S": "4",
    }
    job = job_pb2.InfluenceJob(rank=write_rank(JobWorld(tmp_path / "world").rank_spec(train=60, test=24)))
    with influence_process(tmp_path, scripted=False, state="a", **settings) as owner:
        undisturbed = owner.ended(owner.create(job))
        assert undisturbed.attempt == 1
        with influence_process(
            tmp_path, scripted=False, state="b", EIF_INFLUENCE_MAX_RUNNING_JOBS_PER_PROJECT="1", **settings
        ) as other:
            ended = finishes(owner, other, job)
    assert ended.attempt == 2
    assert tables(ended) == tables(undisturbed)
    folder = tmp_path / "store" / "results" / ended.uid
    assert {path.relative_to(folder).parts[0] for path in folder.rglob("*") if path.is_file()} == {
        "MANIFEST.json", "attempt-2"
    }  # fmt: skip
