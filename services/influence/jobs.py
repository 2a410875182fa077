"""The verbs of InfluenceService that are about jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Coroutine
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from services.common.errors import ServiceError
from services.common.storage.base import ObjectStore
from services.influence.admission import Admission
from services.influence.clock import now
from services.influence.job import Job, JobState, ask_to_cancel
from services.influence.job_folder import remove_folder
from services.influence.job_store import RequestKey, StaleJob
from services.influence.ledger import Ledger
from services.influence.new_job import NewJob
from services.influence.quotas import Quotas
from services.influence.result_reader import delete_results
from services.influence.results import Results
from services.influence.scheduler import Scheduler
from services.influence.tokens import read_token, write_token

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 500

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class JobEvent:
    """A job as it is now; `heartbeat` when nothing has changed."""

    job: Job
    heartbeat: bool = False


@dataclass(frozen=True, kw_only=True)
class JobList:
    """Jobs, newest first; the token is empty on the last page."""

    jobs: tuple[Job, ...]
    next_page_token: str


class JobService:
    """Creates, follows, stops and removes jobs.

    Args:
        ledger: The jobs.
        admission: What is checked before one is accepted.
        scheduler: Runs them.
        store: Where their results are.
        results: What this machine keeps of those.
        state_dir: Their folders lie under it.
        quotas: How many jobs may wait.
        heartbeat_s: A watch says something at least this often.
        ttl: How long ended jobs are kept; None: for ever.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        admission: Admission,
        scheduler: Scheduler,
        store: ObjectStore,
        results: Results,
        state_dir: Path,
        quotas: Quotas,
        heartbeat_s: float,
        ttl: timedelta | None = None,
    ) -> None:
        self._ledger = ledger
        self._admission = admission
        self._scheduler = scheduler
        self._store = store
        self._results = results
        self._state_dir = state_dir
        self._limits = {
            "max_pending": quotas.max_pending,
            "max_pending_per_project": quotas.max_pending_per_project,
        }
        self._heartbeat_s = heartbeat_s
        self._ttl = ttl
        self._finishing: set[asyncio.Task[Any]] = set()

    async def create(self, new: NewJob) -> Job:
        """Accept a job, which is durable then; or return the one that the same request has made before.

        Raises:
            EifError: Those of Admission.admit and of JobStore.create.
        """
        request = new.request_key
        if request is not None and (known := await self._ledger.find_request(request)):
            return self._shown(known)
        job = await self._admission.admit(new)
        if new.validate_only:
            await self._ledger.check_room(job, **self._limits)
            return job
        return self._shown(await self._to_the_end(self._keep(job, request)))

    async def get(self, name: str) -> Job:
        """Raises JOB_NOT_FOUND."""
        return self._shown(await self._ledger.get(name))

    async def list(self, project: str, *, states: Collection[JobState], page_size: int, page_token: str) -> JobList:
        """A page of the jobs of a project. Raises PAGE_TOKEN_INVALID."""
        bound_to = ("jobs", project, sorted(states))
        before = (
            read_token(page_token, *bound_to, reason="PAGE_TOKEN_INVALID", field="page_token") if page_token else None
        )
        limit = min(page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
        page = await self._ledger.list(project, states=states, limit=limit, before=before)
        token = "" if page.next_position is None else write_token(page.next_position, *bound_to)
        return JobList(jobs=tuple(map(self._shown, page.jobs)), next_page_token=token)

    async def cancel(self, name: str) -> Job:
        """Ask a job to stop; whatever state it is in, it is returned as it is then. Raises JOB_NOT_FOUND."""
        return self._shown(await self._to_the_end(self._cancel(name)))

    async def delete(self, name: str, *, etag: str, allow_missing: bool = False) -> None:
        """Remove an ended job with its results; with `allow_missing`, one that is not there is removed already.

        Raises:
            ServiceError: JOB_NOT_FOUND, JOB_NOT_ENDED, ETAG_MISMATCH.
        """
        try:
            await self._to_the_end(self._delete(name, etag))
        except ServiceError as error:
            if not (allow_missing and error.reason == "JOB_NOT_FOUND"):
                raise

    async def remove(self, job: Job) -> None:
        """Remove an ended job with its results, as it was read. Raises JOB_NOT_FOUND when it has gone since."""
        await self._to_the_end(self._remove(job))

    async def watch(self, name: str) -> AsyncGenerator[JobEvent, None]:
        """The job now, then at each change; a watcher that is slow sees the newest. Ends with a terminal state.

        Raises:
            ServiceError: JOB_NOT_FOUND; SERVER_STOPPING when this server does, and the job has not ended;
                JOB_TABLE_UNAVAILABLE when it runs elsewhere and nothing can be learnt of it.
        """
        job = await self._ledger.get(name)
        with self._ledger.board.watch(job.uid) as notice:
            number = notice.number
            job = await self._ledger.get(name)
            notice.seed(job)
            yield JobEvent(job=self._shown(job))
            while not job.state.ended:
                changed = await notice.newer_than(number, timeout_s=self._heartbeat_s)
                if self._ledger.board.closed:
                    raise ServiceError("SERVER_STOPPING", "this server stops; watch again", name=name)
                if notice.error is not None:
                    raise notice.error
                number = notice.number
                job = await self._ledger.get(name) if notice.job is None else notice.job
                yield JobEvent(job=self._shown(job), heartbeat=not changed)

    async def _keep(self, job: Job, request: RequestKey | None) -> Job:
        kept = await self._ledger.create(job, request=request, **self._limits)
        self._scheduler.wake()
        return kept

    async def _cancel(self, name: str) -> Job:
        job = await self._ledger.change(name, lambda job: ask_to_cancel(job, now()))
        if job.state in {JobState.CANCELLING, JobState.CANCELLED}:  # one that waits may still run on a cluster
            self._scheduler.interrupt(job)
        return job

    async def _delete(self, name: str, etag: str) -> None:
        job = await self._ledger.get(name)
        if etag and etag != job.etag:
            raise ServiceError(
                "ETAG_MISMATCH", f"{name} has changed since: its etag is {job.etag} now, not {etag}", name=name
            )
        if not job.state.ended:
            raise ServiceError(
                "JOB_NOT_ENDED", f"{name} is {job.state}; cancel it, or wait until it has ended", name=name
            )
        await self._remove(job)

    async def _remove(self, job: Job) -> None:
        await asyncio.to_thread(delete_results, self._store, job)
        try:
            await self._ledger.delete(job)
        except StaleJob:
            await self._ledger.get(job.name)  # somebody else was faster: JOB_NOT_FOUND
            raise
        await asyncio.to_thread(self._forget, job)

    def _shown(self, job: Job) -> Job:
        """With the time at which it will be deleted."""
        if self._ttl is None or job.end_time is None:
            return job
        return replace(job, expire_time=job.end_time + self._ttl)

    def _forget(self, job: Job) -> None:
        self._results.forget(job)
        remove_folder(self._state_dir, job.uid)

    async def _to_the_end(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Once begun, a change is finished, whether or not the caller still waits."""
        task = asyncio.ensure_future(work)
        self._finishing.add(task)
        task.add_done_callback(self._finished)
        return await asyncio.shield(task)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._finishing.discard(task)
        if not task.cancelled():
            task.exception()  # taken, for the case that the caller has gone
