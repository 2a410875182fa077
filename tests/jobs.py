"""Jobs for tests."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from services.influence.job import Job, JobOutput, JobState
from services.influence.messages import ProgressMessage
from services.influence.result_manifest import ResultManifest, TableEntry
from services.influence.spec import Artifact, RankSpec

T0 = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
T1 = T0 + timedelta(seconds=10)

RANK_SPEC = RankSpec(
    model=Artifact(uri="s3://bucket/model/model.json"),
    train_manifest=Artifact(uri="s3://bucket/train.jsonl", sha256="a" * 64),
    test_manifest=Artifact(uri="s3://bucket/test.csv"),
)

PROGRESS = ProgressMessage(stage="features", done=3, total=10, unit="samples", stages_done=1, stages_total=5)


def make_job(
    job_id: str = "job-a", *, project: str = "p", state: JobState = JobState.PENDING, **changes: object
) -> Job:
    """A job with a name and a uid of its own, in a state."""
    job = Job(
        name=f"projects/{project}/influenceJobs/{job_id}",
        uid=str(uuid.uuid4()),
        spec=RANK_SPEC,
        output_uri_prefix="s3://bucket/out",
        create_time=T0,
        update_time=T0,
    )
    return replace(job, state=state, **changes)  # type: ignore[arg-type]  # by field name


def make_output(job: Job) -> JobOutput:
    """What a job that succeeded has written."""
    manifest = ResultManifest(
        name=job.name,
        uid=job.uid,
        attempt=job.attempt,
        kind=job.spec.kind,
        tables={"ranking": TableEntry(file="ranking.parquet", sha256="b" * 64, rows=7, bytes=99)},
        figures={"train_samples": 7.0},
        provenance={"device": "cpu"},
    )
    return JobOutput(manifest_sha256="c" * 64, manifest=manifest)
