"""Calls about jobs, whatever they do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from eif.influence.v1 import influence_service_pb2

from services.client import names
from services.client.influence_calls import InfluenceCalls
from services.client.job_converters import STATE_VALUES, job_of, raise_unless_succeeded
from services.client.jobs import Job, JobState
from services.client.streams import Stream
from services.client.watching import last_of, watch


class JobCalls(InfluenceCalls):
    """Lists, follows and ends jobs."""

    def get_job(self, job: Job | str) -> Job:
        """A job as it is now."""
        request = influence_service_pb2.GetInfluenceJobRequest(name=self._name(job))
        return job_of(self._connection.call(self._stub.GetInfluenceJob, request))

    def list_jobs(self, *, states: Sequence[JobState] = (), page_size: int = 0) -> Iterator[Job]:
        """The jobs of the project, newest first; only those in `states` when given. Pages are fetched as needed."""
        request = influence_service_pb2.ListInfluenceJobsRequest(
            parent=names.parent(self.project), page_size=page_size, states=[STATE_VALUES[state] for state in states]
        )
        while True:
            page = self._connection.call(self._stub.ListInfluenceJobs, request)
            yield from map(job_of, page.influence_jobs)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def cancel_job(self, job: Job | str) -> Job:
        """Ask a job to stop; one that has ended stays as it is. Returns before it has stopped: see `wait`."""
        request = influence_service_pb2.CancelInfluenceJobRequest(name=self._name(job))
        return job_of(self._connection.call(self._stub.CancelInfluenceJob, request))

    def delete_job(self, job: Job | str, *, etag: str = "", allow_missing: bool = False) -> None:
        """Delete an ended job and its results; with `etag`, only while it is unchanged.

        With `allow_missing`, a job that is not there is no error: a call whose reply was lost can be made again.
        """
        request = influence_service_pb2.DeleteInfluenceJobRequest(
            name=self._name(job), etag=etag, allow_missing=allow_missing
        )
        self._connection.call(self._stub.DeleteInfluenceJob, request)

    def watch(self, job: Job | str, *, timeout: float | None = None) -> Stream[Job]:
        """The job now and at every change, the last time in its terminal state; outlives lost connections.

        With `timeout` (seconds), raises DeadlineExceeded when the job has not ended by then.
        """
        request = influence_service_pb2.WatchInfluenceJobRequest(name=self._name(job))
        return watch(
            lambda call_timeout: self._stub.WatchInfluenceJob(request, timeout=call_timeout),
            name=request.name,
            resource_of=lambda event: job_of(event.influence_job),
            is_terminal=lambda seen: seen.state.is_terminal,
            connection=self._connection,
            reconnect=self._reconnect,
            timeout=timeout,
        )

    def wait(self, job: Job | str, *, timeout: float | None = None) -> Job:
        """The job once it succeeded. Raises JobFailed, JobCancelled, or DeadlineExceeded after `timeout` seconds."""
        return raise_unless_succeeded(last_of(self.watch(job, timeout=timeout)) or self.get_job(job))
