"""The job table as the event loop sees it: calls go to threads, and every change is made known on the board."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from prometheus_client import CollectorRegistry

from services.common.call_record import note_job
from services.influence.board import Board
from services.influence.clock import now
from services.influence.job import Job, JobState
from services.influence.job_store import JobPage, JobStore, RequestKey, StaleJob
from services.influence.job_summary import JobSummary
from services.influence.known_jobs import KnownJobs
from services.influence.lease import Claim, Glance, Lease, LeaseLost, ProgressNote
from services.influence.metrics import InfluenceMetrics

_P = ParamSpec("_P")
_T = TypeVar("_T")

_THREADS = 4


class Ledger:
    """Jobs, as they are stored and with the progress that is not."""

    def __init__(self, store: JobStore, board: Board, metrics: InfluenceMetrics | None = None) -> None:
        self.board = board
        self._store = store
        self._metrics = metrics or InfluenceMetrics(CollectorRegistry())
        self._known = KnownJobs(most=0) if store.shared else KnownJobs()
        # Of its own: calls of the object store, which may hang for long, then never hold up the job table.
        self.threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="job-table")

    @property
    def shared(self) -> bool:
        """As JobStore.shared."""
        return self._store.shared

    async def create(
        self, job: Job, *, request: RequestKey | None, max_pending: int, max_pending_per_project: int = 0
    ) -> Job:
        """As JobStore.create."""
        kept = await self._change(
            _nothing_known,
            self._store.create,
            job,
            request=request,
            max_pending=max_pending,
            max_pending_per_project=max_pending_per_project,
        )
        note_job(kept.uid)
        return kept

    async def check_room(self, job: Job, *, max_pending: int, max_pending_per_project: int = 0) -> None:
        """Raise what `create` would, and keep nothing."""
        await self._call(
            self._store.check_room, job, max_pending=max_pending, max_pending_per_project=max_pending_per_project
        )

    async def find_request(self, request: RequestKey) -> Job | None:
        """As JobStore.find_request."""
        job = await self._call(self._store.find_request, request)
        return None if job is None else self.board.newest(job)

    async def get(self, name: str) -> Job:
        """The job as it is now. Raises JOB_NOT_FOUND."""
        job = self._known.get(name)
        if job is None:
            moment = self._known.moment
            job = await self._call(self._store.get, name)
            self._known.learn(job, moment=moment)
        note_job(job.uid)
        return self.board.newest(job)

    async def list(self, project: str, *, states: Collection[JobState], limit: int, before: int | None) -> JobPage:
        """As JobStore.list."""
        page = await self._call(self._store.list, project, states=states, limit=limit, before=before)
        jobs = tuple(self.board.newest(job) for job in page.jobs)
        return JobPage(jobs=jobs, next_position=page.next_position)

    async def change(self, name: str, change: Callable[[Job], Job], *, lease: Lease | None = None) -> Job:
        """Change a job, whatever others do to it at the same time.

        Args:
            name: Of the job.
            change: From the job as it is to the job as it shall be; the same object when nothing is to change. Called
                again when somebody else was faster.
            lease: As in JobStore.replace.

        Raises:
            LeaseLost: As JobStore.replace; also when the name belongs to another job by now.
        """
        while True:
            job = await self.get(name)
            if lease is not None and job.uid != lease.uid:
                raise LeaseLost(f"{name} is another job now")
            changed = change(job)
            if changed is job:
                return job
            try:
                stored = await self._change(_the_job, self._store.replace, changed, lease=lease)
            except StaleJob:
                continue
            except LeaseLost:
                self._metrics.leases.stale_commit_rejected()
                raise
            self._metrics.jobs.job_changed(stored)
            self.board.post(stored)
            return stored

    async def delete(self, job: Job) -> None:
        """As JobStore.delete."""
        await self._change(lambda _: (job.uid,), self._store.delete, job)

    async def fetch(self, uids: Collection[str]) -> tuple[Job, ...]:
        """As JobStore.fetch."""
        return await self._call(self._store.fetch, uids)

    async def ended_before(self, age_s: float, *, limit: int, besides: Collection[str]) -> tuple[Job, ...]:
        """As JobStore.ended_before."""
        return await self._call(self._store.ended_before, age_s, limit=limit, besides=besides)

    async def claim(
        self, owner: str, *, lease_s: float, max_running_per_project: int, besides: Collection[str]
    ) -> Claim | None:
        """As JobStore.claim."""
        return await self._change(
            _the_claimed,
            self._store.claim,
            owner,
            lease_s=lease_s,
            now=now(),
            max_running_per_project=max_running_per_project,
            besides=besides,
        )

    async def take_over(self, owner: str, *, lease_s: float, besides: Collection[str]) -> Claim | None:
        """As JobStore.take_over."""
        claim = await self._change(_the_claimed, self._store.take_over, owner, lease_s=lease_s, besides=besides)
        if claim is not None and claim.crashed:
            self._metrics.leases.lease_expired()
        return claim

    async def summary(self) -> JobSummary:
        """As JobStore.summary."""
        return await self._call(self._store.summary)

    async def renew(self, notes: Mapping[Lease, ProgressNote | None], *, lease_s: float) -> frozenset[Lease]:
        """As JobStore.renew."""
        return await self._change(lambda _: {lease.uid for lease in notes}, self._store.renew, notes, lease_s=lease_s)

    async def look(self, uids: Collection[str]) -> Mapping[str, Glance]:
        """As JobStore.look."""
        return await self._call(self._store.look, uids)

    def close(self) -> None:
        """Finish what is under way, and let go of the table."""
        self.threads.shutdown(wait=True)
        self._store.close()

    async def _call(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.threads, partial(function, *args, **kwargs))

    async def _change(
        self, changed: Callable[[_T], Collection[str]], function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        """Call what changes the table; `changed` tells the uids of the jobs that are others then.

        The change ends with its thread, not with the caller, who may have been cancelled long before.
        """
        loop = asyncio.get_running_loop()
        work: Future[_T] = self.threads.submit(partial(function, *args, **kwargs))
        self._known.change_begins()

        def ended(work: Future[_T]) -> None:
            failed = not work.cancelled() and work.exception() is not None
            uids = None if failed else () if work.cancelled() else changed(work.result())
            loop.call_soon_threadsafe(self._known.change_ends, uids)

        work.add_done_callback(ended)
        return await asyncio.wrap_future(work)


def _nothing_known(_job: Job) -> Collection[str]:
    """A new job was not known, and one that the request has made before is as it was."""
    return ()


def _the_job(job: Job) -> Collection[str]:
    return (job.uid,)


def _the_claimed(claim: Claim | None) -> Collection[str]:
    return () if claim is None else (claim.job.uid,)
