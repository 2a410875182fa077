from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterator

import grpc
import pytest
from eif.influence.v1 import influence_service_pb2, job_pb2

from services.client.errors import DeadlineExceeded, JobCancelled, JobFailed, NotFound, Unavailable
from services.client.influence import InfluenceClient
from services.client.jobs import JobState
from services.client.reconnect import Reconnect
from tests.scripted_server import Context, ScriptedServer, refuse, status

SERVICE = influence_service_pb2.DESCRIPTOR.services_by_name["InfluenceService"]
FAST = Reconnect(first_delay=0.01, max_delay=0.05, patience=5.0)
NAME = "projects/default/influenceJobs/j1"
Event = influence_service_pb2.InfluenceJobEvent


def event(state: job_pb2.JobState.ValueType, *, done: int = 0, heartbeat: bool = False) -> Event:
    job = job_pb2.InfluenceJob(name=NAME, state=state, rank=job_pb2.RankSpec(), etag=f"{state}-{done}")
    job.progress.stage = "features"
    job.progress.done = done
    job.progress.total = 10
    if state == job_pb2.JOB_STATE_FAILED:
        job.error.CopyFrom(
            status(grpc.StatusCode.INVALID_ARGUMENT, "MANIFEST_INVALID", "line 3 has no id", uri="s3://b/m", line="3")
        )
    return Event(influence_job=job, heartbeat=heartbeat)


PENDING = event(job_pb2.JOB_STATE_PENDING)
RUNNING = event(job_pb2.JOB_STATE_RUNNING, done=3)
FURTHER = event(job_pb2.JOB_STATE_RUNNING, done=7)
BEAT = event(job_pb2.JOB_STATE_RUNNING, done=7, heartbeat=True)
SUCCEEDED = event(job_pb2.JOB_STATE_SUCCEEDED, done=10)


class WatchServer(ScriptedServer):
    """Each call gets the next of `attempts`; a call whose events do not end the job breaks, hangs or just ends."""

    def __init__(self, *attempts: list[Event], then: str = "break") -> None:
        self.attempts = iter(attempts)
        self.then = then
        super().__init__(SERVICE, {"WatchInfluenceJob": self._watch})

    async def _watch(self, _request: object, context: Context) -> None:
        for sent in next(self.attempts, []):
            await context.write(sent)
        if self.then == "break":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "going away")
        if self.then == "hang":
            await asyncio.Event().wait()


@pytest.fixture
def running() -> Iterator[WatchServer]:
    with WatchServer([RUNNING], then="hang") as server:
        yield server


def test_changes_come_once_and_end_with_the_job() -> None:
    with WatchServer([PENDING, RUNNING, FURTHER, BEAT, SUCCEEDED], then="hang") as server:
        with InfluenceClient(server.target) as client:
            seen = [(job.state, job.progress.done if job.progress else None) for job in client.watch("j1")]
        assert server.wait_until_idle()
    assert seen == [
        (JobState.PENDING, 0),
        (JobState.RUNNING, 3),
        (JobState.RUNNING, 7),
        (JobState.SUCCEEDED, 10),
    ]


@pytest.mark.parametrize("then", ["break", "end"])
def test_a_lost_watch_is_opened_again_and_repeats_nothing(then: str) -> None:
    with (
        WatchServer([PENDING, RUNNING], [], [RUNNING, FURTHER], [FURTHER, SUCCEEDED], then=then) as server,
        InfluenceClient(server.target, reconnect=FAST) as client,
    ):
        seen = [job.etag for job in client.watch(NAME)]
    assert seen == ["1-0", "2-3", "2-7", "4-10"]
    assert [request.name for request in server.requests("WatchInfluenceJob")] == [NAME] * 4


def test_a_watch_outlives_a_restart_of_the_server() -> None:
    with (
        WatchServer([RUNNING], [SUCCEEDED], then="hang") as server,
        InfluenceClient(server.target, reconnect=FAST) as client,
        client.watch("j1") as changes,
    ):
        assert next(changes).state is JobState.RUNNING
        server.stop()
        server.start()
        assert [job.state for job in changes] == [JobState.SUCCEEDED]


def test_leaving_a_watch_ends_the_handler(running: WatchServer) -> None:
    with InfluenceClient(running.target) as client:
        for job in client.watch("j1"):
            assert running.wait_until_busy()
            assert job.state is JobState.RUNNING
            break
        assert running.wait_until_idle()


def test_wait_returns_the_job_that_succeeded() -> None:
    with WatchServer([RUNNING, SUCCEEDED]) as server, InfluenceClient(server.target) as client:
        assert client.wait("j1").state is JobState.SUCCEEDED


def test_wait_raises_what_the_job_failed_with() -> None:
    with (
        WatchServer([RUNNING, event(job_pb2.JOB_STATE_FAILED)]) as server,
        InfluenceClient(server.target) as client,
        pytest.raises(JobFailed, match="MANIFEST_INVALID: line 3 has no id") as caught,
    ):
        client.wait("j1")
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.metadata == {"uri": "s3://b/m", "line": "3"}
    assert caught.value.job.state is JobState.FAILED
    again = copy.copy(caught.value)  # what crosses to another process in a pool is made like this
    assert (again.reason, again.job, again.metadata) == ("MANIFEST_INVALID", caught.value.job, caught.value.metadata)


def test_wait_says_that_the_job_was_cancelled() -> None:
    with (
        WatchServer([event(job_pb2.JOB_STATE_CANCELLED)]) as server,
        InfluenceClient(server.target) as client,
        pytest.raises(JobCancelled) as caught,
    ):
        client.wait("j1")
    assert caught.value.reason == "JOB_CANCELLED"
    assert caught.value.job.name == NAME


def test_wait_gives_up_at_its_timeout_and_leaves_nothing_running(running: WatchServer) -> None:
    with InfluenceClient(running.target) as client:
        with pytest.raises(DeadlineExceeded, match=r"j1 has not ended after 0.2 s; it goes on") as caught:
            client.wait("j1", timeout=0.2)
        assert running.wait_until_idle()
    assert caught.value.reason == "WAIT_TIMEOUT"


def test_an_unknown_job_is_not_found_at_once() -> None:
    async def missing(_request: object, context: Context) -> None:
        await refuse(context, grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND", "no job j1", job=NAME)

    with ScriptedServer(SERVICE, {"WatchInfluenceJob": missing}) as server, InfluenceClient(server.target) as client:
        with pytest.raises(NotFound) as caught:
            client.wait("j1")
        assert len(server.calls) == 1
    assert (caught.value.reason, caught.value.metadata) == ("JOB_NOT_FOUND", {"job": NAME})


def test_a_server_that_never_comes_back_is_unavailable() -> None:
    impatient = Reconnect(first_delay=0.01, max_delay=0.05, patience=0.3)
    with WatchServer([RUNNING]) as server, InfluenceClient(server.target, reconnect=impatient) as client:
        changes = client.watch("j1")
        next(changes)
        with pytest.raises(Unavailable):
            next(changes)


def test_a_newer_state_is_unknown_and_not_terminal() -> None:
    newer = event(job_pb2.JOB_STATE_RUNNING)
    newer.influence_job.state = 99  # type: ignore[assignment]  # a value that this client does not know yet
    with WatchServer([newer, SUCCEEDED]) as server, InfluenceClient(server.target) as client:
        assert [job.state for job in client.watch("j1")] == [JobState.UNKNOWN, JobState.SUCCEEDED]
