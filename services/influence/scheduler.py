"""Which job runs when, and what becomes of it when its process has ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from pathlib import Path

from services.common.errors import ServiceError
from services.common.storage.base import ObjectStore
from services.influence.clock import now
from services.influence.eta import Eta
from services.influence.job import Job, JobError, JobOutput, JobState, TransitionRefused, advance, fail, start
from services.influence.job_folder import job_folder, prepare_folder, tidy_folder
from services.influence.ledger import Ledger
from services.influence.messages import Message, ProgressMessage
from services.influence.patience import persistently
from services.influence.result_reader import read_output
from services.influence.runner import ExitReport, JobRunner, OnMessage
from services.influence.verdict import after_exit, after_restart

Verdict = Callable[[Job, JobOutput | None], Job]

logger = logging.getLogger(__name__)


class Scheduler:
    """Starts waiting jobs in the order in which they were created, and settles each when its process has ended.

    A job that this server was running when it died, or when it was stopped, is settled by the next one.

    Args:
        ledger: The jobs.
        store: Where their results are.
        runner: Runs their processes.
        state_dir: Their folders lie under it.
        max_running: Processes at a time.
        max_attempts: Runs of a job that may end in a kill from outside.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        store: ObjectStore,
        runner: JobRunner,
        state_dir: Path,
        max_running: int,
        max_attempts: int,
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._runner = runner
        self._state_dir = state_dir
        self._max_running = max_running
        self._max_attempts = max_attempts
        self._wake = asyncio.Event()
        self._stopping = False
        self._runs: dict[str, asyncio.Task[None]] = {}
        self._leftovers: set[str] = set()
        self._background: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Settle what the server before has left behind, and start what waits."""
        leftovers = await self._ledger.active()
        self._leftovers = {job.uid for job in leftovers}
        for job in leftovers:
            self._spawn(self._settle_leftover(job))
        self._spawn(self._start_jobs())
        self.wake()

    def wake(self) -> None:
        """Look for a waiting job."""
        self._wake.set()

    def interrupt(self, job: Job) -> None:
        """See to it that the process of a job, if it has one, ends soon."""
        self._runner.cancel(job_folder(self._state_dir, job.uid))

    async def stop(self) -> None:
        """End every job process. Their jobs stay as they are stored: the next server settles them."""
        self._stopping = True
        for task in self._background:
            task.cancel()
        for uid in self._runs:
            self._runner.cancel(job_folder(self._state_dir, uid))
        await asyncio.gather(*self._runs.values(), *self._background, return_exceptions=True)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _start_jobs(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await persistently(self._fill)

    async def _fill(self) -> None:
        while self._has_room() and (waiting := await self._ledger.next_waiting()):
            with suppress(TransitionRefused):  # it was cancelled a moment ago
                job = await self._ledger.change(waiting.name, lambda job: start(job, now()))
                self._runs[job.uid] = asyncio.create_task(self._run(job))

    def _has_room(self) -> bool:
        """Whether another process may run. What an earlier server has left may still do, until it is settled."""
        return len(self._runs) + len(self._leftovers) < self._max_running

    async def _run(self, job: Job) -> None:
        logger.info("%s: attempt %d starts", job.name, job.attempt)
        try:
            await self._run_attempt(job)
        except OSError as error:
            await self._fail(job, ServiceError("RESOURCE_PROBLEM", f"the job process could not be started: {error}"))
        except Exception:
            logger.exception("%s could not be run", job.name)
            await self._fail(job, ServiceError("INTERNAL", "the server could not run this job; its log says why"))
        finally:
            del self._runs[job.uid]
            self.wake()

    async def _run_attempt(self, job: Job) -> None:
        folder = await asyncio.to_thread(prepare_folder, self._state_dir, job)
        report = ExitReport(asked_to_stop=True)
        if not self._is_unwanted(job):  # from here to the start of the process nobody else gets a turn
            report = await self._runner.run(folder, self._on_message(job))
        if self._stopping:
            return
        verdict = partial(after_exit, max_attempts=self._max_attempts)
        await self._settle(job, lambda job, output: verdict(job, report, output, now=now()))

    def _is_unwanted(self, job: Job) -> bool:
        """Whether it was cancelled, or the server began to stop, before there was a process to tell."""
        return self._stopping or self._ledger.board.newest(job).state is JobState.CANCELLING

    def _on_message(self, job: Job) -> OnMessage:
        eta = Eta()
        board = self._ledger.board

        def handle(message: Message) -> None:
            if isinstance(message, ProgressMessage):
                left_s = eta.update(message, asyncio.get_running_loop().time())
                board.post(advance(board.newest(job), message, left_s, now()))

        return handle

    async def _settle_leftover(self, job: Job) -> None:
        try:
            await self._runner.reap(job_folder(self._state_dir, job.uid))
            await self._settle(job, lambda job, output: after_restart(job, output, now=now()))
        finally:
            self._leftovers.discard(job.uid)
            self.wake()

    async def _settle(self, job: Job, verdict: Verdict) -> None:
        """Change a job whose process has ended. Its MANIFEST.json is looked for however long the store is away."""
        try:
            output = await persistently(lambda: asyncio.to_thread(read_output, self._store, job))
        except ServiceError as error:
            await self._fail(job, error)
            return
        settled = await persistently(lambda: self._ledger.change(job.name, lambda job: verdict(job, output)))
        await self._log_and_tidy(settled)

    async def _fail(self, job: Job, error: ServiceError) -> None:
        why = JobError(reason=error.reason, message=error.message, metadata=error.metadata)
        with suppress(TransitionRefused):
            failed = await persistently(lambda: self._ledger.change(job.name, lambda job: fail(job, why, now())))
            await self._log_and_tidy(failed)

    async def _log_and_tidy(self, job: Job) -> None:
        reason = f" ({job.error.reason})" if job.error else ""
        logger.info("%s: %s%s", job.name, job.state, reason)
        if job.state.ended:
            await asyncio.to_thread(tidy_folder, self._state_dir, job.uid)
