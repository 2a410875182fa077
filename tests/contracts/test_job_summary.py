"""The job table in numbers, on every database."""

from __future__ import annotations

from datetime import timedelta

from services.influence.job import Job, JobState
from services.influence.job_store import JobStore
from services.influence.job_summary import JobSummary
from services.influence.spec import Artifact, RelabelSpec
from tests.jobs import T0, make_job

RELABEL = RelabelSpec(model=Artifact(uri="s3://b/m"), train_manifest=Artifact(uri="s3://b/train.csv"))


def put(store: JobStore, job: Job) -> None:
    store.create(job, request=None, max_pending=100)


def test_an_empty_table_has_nothing(store: JobStore) -> None:
    assert store.summary() == JobSummary()


def test_jobs_are_counted_by_state_and_kind_and_the_first_that_waits_is_told(store: JobStore) -> None:
    put(store, make_job("a", state=JobState.SUCCEEDED))
    put(store, make_job("b", project="q", state=JobState.SUCCEEDED, spec=RELABEL))
    put(store, make_job("c", state=JobState.RUNNING))
    assert store.summary().waiting_since is None
    put(store, make_job("d", create_time=T0 + timedelta(seconds=5)))
    put(store, make_job("e", spec=RELABEL))
    put(store, make_job("f", project="q"))
    assert store.summary() == JobSummary(
        counts={
            (JobState.SUCCEEDED, "rank"): 1,
            (JobState.SUCCEEDED, "relabel"): 1,
            (JobState.RUNNING, "rank"): 1,
            (JobState.PENDING, "rank"): 2,
            (JobState.PENDING, "relabel"): 1,
        },
        waiting_since=T0 + timedelta(seconds=5),
    )
