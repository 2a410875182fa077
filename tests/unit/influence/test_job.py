from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from services.influence import job as jobs
from services.influence.job import NEXT_STATES, Job, JobError, JobState, TransitionRefused
from tests.jobs import PROGRESS, T1, make_job, make_output

PENDING, RUNNING, CANCELLING = JobState.PENDING, JobState.RUNNING, JobState.CANCELLING
SUCCEEDED, FAILED, CANCELLED = JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED
ENDED = {SUCCEEDED, FAILED, CANCELLED}
ERROR = JobError(reason="MANIFEST_INVALID", message="line 3")

CHANGES: dict[JobState, Callable[[Job], Job]] = {
    PENDING: lambda job: jobs.run_again(job, T1, crashed=True),
    RUNNING: lambda job: jobs.start(job, T1),
    SUCCEEDED: lambda job: jobs.succeed(job, make_output(job), T1),
    FAILED: lambda job: jobs.fail(job, ERROR, T1),
    CANCELLED: lambda job: jobs.cancelled(job, T1),
}
ALLOWED = {
    (PENDING, RUNNING),
    (PENDING, CANCELLED),
    (PENDING, FAILED),
    (RUNNING, PENDING),
    (RUNNING, SUCCEEDED),
    (RUNNING, FAILED),
    (CANCELLING, CANCELLED),
    (CANCELLING, SUCCEEDED),
    (CANCELLING, FAILED),
}


@pytest.mark.parametrize(("before", "after"), list(itertools.product(JobState, CHANGES)))
def test_a_job_takes_the_allowed_steps_and_no_other(before: JobState, after: JobState) -> None:
    job = make_job(state=before)
    if (before, after) not in ALLOWED:
        with pytest.raises(TransitionRefused, match=f"{job.name} cannot go from {before} to {after}"):
            CHANGES[after](job)
        return
    changed = CHANGES[after](job)
    assert changed.state is after
    assert changed.update_time == T1
    assert (changed.end_time == T1) is (after in ENDED)
    assert changed.version == job.version  # the store counts


def test_the_table_of_states_is_the_one_that_is_tested() -> None:
    steps = {(before, after) for before, states in NEXT_STATES.items() for after in states}
    assert steps == ALLOWED | {(RUNNING, CANCELLING)}
    assert {state for state, states in NEXT_STATES.items() if not states} == ENDED


@pytest.mark.parametrize("state", JobState)
def test_ended_and_active(state: JobState) -> None:
    assert state.ended is (state in ENDED)
    assert state.active is (state in {RUNNING, CANCELLING})


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (PENDING, CANCELLED),
        (RUNNING, CANCELLING),
        (CANCELLING, CANCELLING),
        *((state, state) for state in sorted(ENDED)),
    ],
)
def test_cancel_ends_a_waiting_job_asks_a_running_one_and_leaves_the_others(before: JobState, after: JobState) -> None:
    job = make_job(state=before)
    changed = jobs.ask_to_cancel(job, T1)
    assert changed.state is after
    assert changed is job if before is after else changed.update_time == T1
    assert jobs.ask_to_cancel(changed, T1) is changed


def test_a_cancelled_job_says_why() -> None:
    changed = jobs.cancelled(make_job(state=CANCELLING), T1)
    assert changed.error == JobError(reason="JOB_CANCELLED", message="the job was cancelled")


def test_start_forgets_the_progress_of_the_run_before() -> None:
    changed = jobs.start(make_job(progress=PROGRESS), T1)
    assert changed.start_time == T1
    assert changed.progress is None


def test_progress_changes_the_etag_but_not_the_version() -> None:
    job = make_job(state=RUNNING)
    changed = jobs.advance(job, PROGRESS, 12.5, T1)
    assert (changed.progress, changed.eta_s, changed.version) == (PROGRESS, 12.5, job.version)
    assert changed.etag != job.etag
    assert changed.etag == jobs.advance(job, PROGRESS, 99.0, T1).etag


def test_an_ended_job_keeps_its_progress_and_has_no_eta() -> None:
    job = jobs.advance(make_job(state=RUNNING), PROGRESS, 12.5, T1)
    changed = jobs.fail(job, ERROR, T1)
    assert changed.progress == PROGRESS
    assert changed.eta_s is None
    assert changed.error == ERROR


@pytest.mark.parametrize("crashed", [False, True])
def test_only_crashes_count_as_crashes(*, crashed: bool) -> None:
    changed = jobs.run_again(make_job(state=RUNNING, attempt=2, crashes=1, start_time=T1), T1, crashed=crashed)
    assert (changed.attempt, changed.crashes, changed.start_time) == (3, 1 + crashed, None)


def test_results_lie_under_the_uid() -> None:
    job = make_job(output_uri_prefix="s3://bucket/out/")
    assert job.manifest_uri == f"s3://bucket/out/{job.uid}/MANIFEST.json"
