"""From how a job process ended to what becomes of its job."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.influence.job import Job, JobState
from services.influence.limits import LIMITS, Breach
from services.influence.messages import CancelledMessage, FailedMessage, SucceededMessage
from services.influence.runner import ExitReport
from services.influence.verdict import after_exit, after_restart, after_takeover
from tests.jobs import T1, make_job, make_output

RUNNING, CANCELLING = JobState.RUNNING, JobState.CANCELLING
SUCCEEDED = SucceededMessage(manifest_uri="s3://b/MANIFEST.json", manifest_sha256="0" * 64)
FAILED = FailedMessage(reason="IMAGE_INVALID", message="x", metadata={"uri": "u"})
KILLED = ExitReport(signal="SIGKILL", log_tail="the end")


def breach(reason: str, *, again: bool) -> ExitReport:
    return ExitReport(breach=Breach(reason=reason, message="why", metadata={"limit_s": "5"}, again=again))


FINAL = {
    "its own reason": (ExitReport(last=FAILED, exit_code=0), "IMAGE_INVALID"),
    "a reason that nobody knows": (ExitReport(last=FailedMessage(reason="NONE_OF_OURS", message="x")), "INTERNAL"),
    "no word": (ExitReport(exit_code=3), "WORKER_CRASHED"),
    "success without results": (ExitReport(last=SUCCEEDED, exit_code=0), "WORKER_CRASHED"),
    "too much memory": (breach("OUT_OF_MEMORY", again=False), "OUT_OF_MEMORY"),
    "out of time": (breach("TIME_LIMIT_EXCEEDED", again=False), "TIME_LIMIT_EXCEEDED"),
}
AGAIN = {
    "killed": (KILLED, "WORKER_CRASHED"),
    "stopped by somebody": (ExitReport(last=CancelledMessage(), exit_code=0), "WORKER_CRASHED"),
    "stalled": (breach("JOB_STALLED", again=True), "JOB_STALLED"),
    "lost with its node": (breach("WORKER_CRASHED", again=True), "WORKER_CRASHED"),
    "no cluster": (breach("CLUSTER_UNAVAILABLE", again=True), "CLUSTER_UNAVAILABLE"),
    "refused by the cluster": (breach("CLUSTER_DENIED", again=True), "CLUSTER_DENIED"),
}
ENDS = FINAL | AGAIN


def ended(job: Job, report: ExitReport, *, results: bool = False, max_attempts: int = 3) -> Job:
    return after_exit(job, report, make_output(job) if results else None, max_attempts=max_attempts, now=T1)


def reason_of(job: Job) -> str | None:
    return job.error.reason if job.error is not None else None


@pytest.mark.parametrize("end", FINAL)
def test_what_would_end_the_same_way_again_fails_at_once(end: str) -> None:
    report, reason = FINAL[end]
    failed = ended(make_job(state=RUNNING), report)
    assert (failed.state, reason_of(failed), failed.crashes) == (JobState.FAILED, reason, 0)


@pytest.mark.parametrize("end", AGAIN)
def test_what_came_from_outside_runs_again_as_often_as_it_may(end: str) -> None:
    report, reason = AGAIN[end]
    job = make_job(state=RUNNING)
    for crashes in (1, 2):
        job = ended(job, report)
        assert (job.state, job.error, job.crashes) == (JobState.PENDING, None, crashes)
        job = replace(job, state=RUNNING)
    failed = ended(job, report)
    assert (failed.state, reason_of(failed)) == (JobState.FAILED, reason)
    assert failed.error is not None
    assert "the last of 3 times" in failed.error.message
    assert reason_of(ended(make_job(state=RUNNING), report, max_attempts=1)) == reason


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("state", [RUNNING, CANCELLING])
def test_results_decide_whatever_the_process_said(end: str, state: JobState) -> None:
    assert ended(make_job(state=state), ENDS[end][0], results=True).state is JobState.SUCCEEDED


@pytest.mark.parametrize("end", ENDS)
def test_a_cancel_decides_where_there_are_no_results(end: str) -> None:
    assert ended(make_job(state=CANCELLING), ENDS[end][0]).state is JobState.CANCELLED


def test_a_crash_tells_the_signal_and_the_end_of_the_log() -> None:
    failed = ended(make_job(state=RUNNING), KILLED, max_attempts=1)
    assert failed.error is not None
    assert failed.error.metadata == {"signal": "SIGKILL"}
    assert "the end" in failed.error.message


def test_a_limit_tells_its_figures() -> None:
    for reason in sorted(LIMITS):
        failed = ended(make_job(state=RUNNING), breach(reason, again=False))
        assert failed.error is not None
        assert (failed.error.reason, failed.error.metadata) == (reason, {"limit_s": "5"})


def test_a_server_that_stops_is_no_crash_of_the_job_and_one_that_is_lost_may_be() -> None:
    job = make_job(state=RUNNING)
    assert after_restart(job, None, now=T1).crashes == 0
    taken = after_takeover(job, None, max_attempts=2, now=T1)
    assert (taken.state, taken.crashes) == (JobState.PENDING, 1)
    failed = after_takeover(replace(taken, state=RUNNING), None, max_attempts=2, now=T1)
    assert (failed.state, reason_of(failed)) == (JobState.FAILED, "WORKER_CRASHED")
    assert after_takeover(make_job(state=CANCELLING), None, max_attempts=1, now=T1).state is JobState.CANCELLED
    assert after_takeover(job, make_output(job), max_attempts=1, now=T1).state is JobState.SUCCEEDED
