"""Which job runs here and when: claims from the table of jobs, processes, and what becomes of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from services.common.errors import ServiceError
from services.common.storage.base import ObjectStore
from services.influence.clock import now
from services.influence.eta import Eta
from services.influence.follower import Follower
from services.influence.job import Job, JobState, advance
from services.influence.job_folder import job_folder, prepare_folder
from services.influence.lease import Claim, ProgressNote
from services.influence.lease_keeper import LeaseKeeper
from services.influence.ledger import Ledger
from services.influence.messages import Message, ProgressMessage
from services.influence.patience import persistently
from services.influence.quotas import Quotas
from services.influence.runner import ExitReport, JobRunner, OnMessage
from services.influence.settlement import Settlement
from services.influence.verdict import after_exit, after_restart, after_takeover

SHARED_POLL_S = 1.0
"""Between two looks for jobs that other servers took or left."""
LONELY_POLL_S = 10.0
"""The same where there is no other server: every job but one whose lease was given up is known here."""
STOP_S = 5.0
"""What a stop waits for the table of jobs; then leases are left to expire."""

logger = logging.getLogger(__name__)


class Scheduler:
    """Claims waiting jobs, runs their processes, and settles each when its process has ended.

    A job whose server is gone is taken over: at once by a server that starts again on its state folder, by any other
    when the lease has expired.

    Args:
        ledger: The jobs.
        store: Where their results are.
        runner: Runs their processes.
        state_dir: Their folders lie under it.
        owner: Id of this server.
        quotas: How much runs at a time, and how often.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        store: ObjectStore,
        runner: JobRunner,
        state_dir: Path,
        owner: str,
        quotas: Quotas,
    ) -> None:
        self._ledger = ledger
        self._runner = runner
        self._state_dir = state_dir
        self._owner = owner
        self._quotas = quotas
        self._keeper = LeaseKeeper(ledger, lease_s=quotas.lease_s)
        self._settlement = Settlement(ledger=ledger, store=store, keeper=self._keeper, state_dir=state_dir)
        self._follower = Follower(ledger, self._keeper, on_change=self._see)
        self._wake = asyncio.Event()
        self._stopping = False
        self._runs: dict[str, asyncio.Task[None]] = {}
        self._abandoned: set[str] = set()
        self._given_up: set[str] = set()
        self._dispatcher: asyncio.Task[None] | None = None
        self._background: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Settle what an earlier server on this state folder has left behind, and start what waits."""
        self._background = [asyncio.create_task(self._keeper.run()), asyncio.create_task(self._follower.run())]
        self._dispatcher = asyncio.create_task(self._dispatch())

    def wake(self) -> None:
        """Look for a waiting job."""
        self._wake.set()

    def interrupt(self, job: Job) -> None:
        """See to it that the process of a job, if it has one here, ends soon."""
        self._runner.cancel(job_folder(self._state_dir, job.uid))

    async def stop(self) -> None:
        """End every job process and put their jobs back into the queue, where the table can be reached."""
        self._stopping = True
        self.wake()
        if self._dispatcher is not None:
            await asyncio.wait({self._dispatcher}, timeout=STOP_S)
            self._dispatcher.cancel()
        for uid, task in self._runs.items():
            self._runner.leave(job_folder(self._state_dir, uid))
            if uid in self._abandoned:
                task.cancel()
        await asyncio.gather(*self._runs.values(), return_exceptions=True)
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)

    def _see(self, job: Job) -> None:
        if job.state is JobState.CANCELLING:
            self.interrupt(job)

    async def _dispatch(self) -> None:
        poll_s = SHARED_POLL_S if self._ledger.shared else LONELY_POLL_S
        while not self._stopping:
            try:
                await persistently(self._claim_jobs, longest_wait_s=2.0)
            except Exception:
                logger.exception("jobs could not be claimed")
            try:
                async with asyncio.timeout(poll_s):
                    await self._wake.wait()
            except TimeoutError:
                continue
            self._wake.clear()

    async def _claim_jobs(self) -> None:
        while not self._stopping and await self._claim_abandoned():
            pass
        while not self._stopping and len(self._runs) < self._quotas.max_running and await self._claim_waiting():
            pass

    async def _claim_abandoned(self) -> bool:
        asked_at = asyncio.get_running_loop().time()
        claim = await self._ledger.take_over(self._owner, lease_s=self._quotas.lease_s, besides=set(self._runs))
        if claim is not None:
            self._abandoned.add(claim.job.uid)
            self._hold(claim, asked_at, self._settle_abandoned)
        return claim is not None

    async def _claim_waiting(self) -> bool:
        asked_at = asyncio.get_running_loop().time()
        claim = await self._ledger.claim(
            self._owner,
            lease_s=self._quotas.lease_s,
            max_running_per_project=self._quotas.max_running_per_project,
            besides=set(self._runs),
        )
        if claim is not None:
            self._hold(claim, asked_at, self._run)
        return claim is not None

    def _hold(self, claim: Claim, asked_at: float, work: Callable[[Claim], Awaitable[None]]) -> None:
        """Do the work on a job for as long as its lease is ours."""
        uid = claim.job.uid
        task = self._runs[uid] = asyncio.create_task(self._to_the_end(claim, work))
        self._keeper.hold(
            claim.lease, asked_at=asked_at, stop=lambda: self._give_up(claim.job), kill=lambda: _cancel(task)
        )
        self._ledger.board.hold(claim.job)

    async def _to_the_end(self, claim: Claim, work: Callable[[Claim], Awaitable[None]]) -> None:
        job = claim.job
        try:
            await work(claim)
        except OSError as error:
            what = f"the job process could not be started: {error}"
            await self._settlement.fail(claim, ServiceError("RESOURCE_PROBLEM", what))
        except Exception:
            logger.exception("%s could not be run", job.name)
            what = "the server could not run this job; its log says why"
            await self._settlement.fail(claim, ServiceError("INTERNAL", what))
        finally:
            self._keeper.let_go(job.uid)
            self._ledger.board.let_go(job.uid)
            self._abandoned.discard(job.uid)
            self._given_up.discard(job.uid)
            del self._runs[job.uid]
            self.wake()

    async def _run(self, claim: Claim) -> None:
        job = claim.job
        logger.info("%s: attempt %d starts", job.name, job.attempt)
        folder = await asyncio.to_thread(prepare_folder, self._state_dir, job)
        report = ExitReport(asked_to_stop=True)
        if not self._is_unwanted(job):  # from here to the start of the process nobody else gets a turn
            report = await self._runner.run(folder, self._on_message(claim))
        if self._stopping or job.uid in self._given_up:
            await self._hand_back(claim)
            return
        verdict = partial(after_exit, max_attempts=self._quotas.max_attempts)
        await self._settlement.settle(claim, lambda job, output: verdict(job, report, output, now=now()))

    def _is_unwanted(self, job: Job) -> bool:
        """Whether it was cancelled, or this server began to stop, before there was a process to tell."""
        cancelled = self._ledger.board.newest(job).state is JobState.CANCELLING
        return cancelled or self._stopping or job.uid in self._given_up

    def _on_message(self, claim: Claim) -> OnMessage:
        job, eta, board = claim.job, Eta(), self._ledger.board

        def handle(message: Message) -> None:
            if isinstance(message, ProgressMessage) and self._keeper.is_ours(claim.lease):
                left_s = eta.update(message, asyncio.get_running_loop().time())
                note = ProgressNote(progress=message, eta_s=left_s, time=now())
                board.post(advance(board.newest(job), note.progress, note.eta_s, note.time))
                self._keeper.note(job, note)

        return handle

    async def _hand_back(self, claim: Claim) -> None:
        """Let another server go on with a job that was stopped here, at once where the table can be reached."""
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                await self._settlement.settle(claim, lambda job, output: after_restart(job, output, now=now()))

    async def _settle_abandoned(self, claim: Claim) -> None:
        job = claim.job
        logger.info("%s: attempt %d was left by its server", job.name, job.attempt)
        folder = job_folder(self._state_dir, job.uid)
        if job.state is JobState.CANCELLING:
            self._runner.cancel(folder)  # also what goes on without a server
        await self._runner.reap(folder)
        verdict = partial(after_takeover, max_attempts=self._quotas.max_attempts) if claim.crashed else after_restart
        await self._settlement.settle(claim, lambda job, output: verdict(job, output, now=now()))

    def _give_up(self, job: Job) -> None:
        """The lease is lost, or about to end: no process may work on the job here."""
        self._given_up.add(job.uid)
        self._runner.leave(job_folder(self._state_dir, job.uid))


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
