"""The job table as the event loop sees it: calls go to threads, and every change is made known on the board."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from services.influence.board import Board
from services.influence.job import Job, JobState
from services.influence.job_store import JobPage, JobStore, RequestKey, StaleJob

_P = ParamSpec("_P")
_T = TypeVar("_T")

_THREADS = 4


class Ledger:
    """Jobs, as they are stored and with the progress that is not."""

    def __init__(self, store: JobStore, board: Board) -> None:
        self.board = board
        self._store = store
        # Of its own: calls of the object store, which may hang for long, then never hold up the job table.
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="job-table")

    async def create(self, job: Job, *, request: RequestKey | None, max_pending: int) -> Job:
        """As JobStore.create."""
        return await self._call(self._store.create, job, request=request, max_pending=max_pending)

    async def check_room(self, job: Job, *, max_pending: int) -> None:
        """Raise what `create` would, and keep nothing."""
        await self._call(self._store.check_room, job, max_pending=max_pending)

    async def find_request(self, request: RequestKey) -> Job | None:
        """As JobStore.find_request."""
        job = await self._call(self._store.find_request, request)
        return None if job is None else self.board.newest(job)

    async def get(self, name: str) -> Job:
        """The job as it is now. Raises JOB_NOT_FOUND."""
        return self.board.newest(await self._call(self._store.get, name))

    async def list(self, project: str, *, states: Collection[JobState], limit: int, before: int | None) -> JobPage:
        """As JobStore.list."""
        page = await self._call(self._store.list, project, states=states, limit=limit, before=before)
        jobs = tuple(self.board.newest(job) for job in page.jobs)
        return JobPage(jobs=jobs, next_position=page.next_position)

    async def change(self, name: str, change: Callable[[Job], Job]) -> Job:
        """Change a job, whatever others do to it at the same time.

        Args:
            name: Of the job.
            change: From the job as it is to the job as it shall be; the same object when nothing is to change. Called
                again when somebody else was faster.
        """
        while True:
            job = await self.get(name)
            changed = change(job)
            if changed is job:
                return job
            try:
                stored = await self._call(self._store.replace, changed)
            except StaleJob:
                continue
            self.board.post(stored)
            return stored

    async def delete(self, job: Job) -> None:
        """As JobStore.delete."""
        await self._call(self._store.delete, job)

    async def next_waiting(self) -> Job | None:
        """The job whose turn it is."""
        return await self._call(self._store.oldest, JobState.PENDING)

    async def active(self) -> tuple[Job, ...]:
        """As JobStore.active."""
        return await self._call(self._store.active)

    def close(self) -> None:
        """Finish what is under way, and let go of the table."""
        self._threads.shutdown(wait=True)
        self._store.close()

    async def _call(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, partial(function, *args, **kwargs))
