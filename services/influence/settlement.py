"""What becomes of a job when its process has ended: decided by who holds its lease, and by nobody else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from services.common.errors import ServiceError
from services.common.storage.base import ObjectStore
from services.influence.clock import now
from services.influence.job import Job, JobError, JobOutput, TransitionRefused, fail
from services.influence.job_folder import tidy_folder
from services.influence.lease import Claim, LeaseLost
from services.influence.lease_keeper import LeaseKeeper
from services.influence.ledger import Ledger
from services.influence.patience import persistently
from services.influence.result_reader import read_output, remove_lost_attempts

Verdict = Callable[[Job, JobOutput | None], Job]
"""From a job as it is stored, and its results if it has any, to what it becomes."""

_T = TypeVar("_T")

logger = logging.getLogger(__name__)


class Settlement:
    """Stores what became of claimed jobs, however long the table or the object store are away.

    Nothing is stored once the lease is lost: another server settles the job then.

    Args:
        ledger: The jobs.
        store: Where their results are.
        keeper: Knows whether a lease still holds.
        state_dir: The folders of jobs lie under it.
    """

    def __init__(self, *, ledger: Ledger, store: ObjectStore, keeper: LeaseKeeper, state_dir: Path) -> None:
        self._ledger = ledger
        self._store = store
        self._keeper = keeper
        self._state_dir = state_dir

    async def settle(self, claim: Claim, verdict: Verdict) -> None:
        """Change a job whose process has ended. Its MANIFEST.json is looked for first: that decides."""
        job = claim.job
        try:
            output = await self._while_ours(claim, lambda: asyncio.to_thread(read_output, self._store, job))
        except LeaseLost as lost:
            await self._leave(job, lost)
        except ServiceError as error:
            await self.fail(claim, error)
        else:
            await self._change(claim, lambda job: verdict(job, output))

    async def fail(self, claim: Claim, error: ServiceError) -> None:
        """End a job without results."""
        why = JobError(reason=error.reason, message=error.message, metadata=error.metadata)
        await self._change(claim, lambda job: fail(job, why, now()))

    async def _change(self, claim: Claim, change: Callable[[Job], Job]) -> None:
        name = claim.job.name
        try:
            job = await self._while_ours(claim, lambda: self._ledger.change(name, change, lease=claim.lease))
        except (LeaseLost, TransitionRefused) as lost:  # refused: another server has settled it
            await self._leave(claim.job, lost)
        except ServiceError as error:
            if error.reason != "JOB_NOT_FOUND":
                raise
            await self._leave(claim.job, error)
        else:
            reason = f" ({job.error.reason})" if job.error else ""
            logger.info("%s: %s%s", job.name, job.state, reason)
            await asyncio.to_thread(self._tidy, job)

    async def _while_ours(self, claim: Claim, work: Callable[[], Awaitable[_T]]) -> _T:
        async def checked() -> _T:
            if not self._keeper.is_ours(claim.lease):
                raise LeaseLost(f"its lease of epoch {claim.lease.epoch} has ended")
            return await work()

        return await persistently(checked)

    async def _leave(self, job: Job, why: Exception) -> None:
        logger.warning("%s is settled by another server: %s", job.name, why)
        await asyncio.to_thread(tidy_folder, self._state_dir, job.uid)

    def _tidy(self, job: Job) -> None:
        if not job.state.ended:
            return
        tidy_folder(self._state_dir, job.uid)
        with suppress(ServiceError):  # what is left takes room and no more; it goes with the job
            remove_lost_attempts(self._store, job)
