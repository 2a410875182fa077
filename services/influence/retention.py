"""Deletes jobs that ended long ago, with their results, and what this machine keeps of jobs that are gone."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

from services.common.errors import ServiceError
from services.influence.job import Job
from services.influence.job_folder import job_folders, remove_folder
from services.influence.ledger import Ledger

BATCH = 20
"""Jobs that are deleted one after another before the table is asked again."""
MAX_INTERVAL_S, MIN_INTERVAL_S = 600.0, 1.0

logger = logging.getLogger(__name__)


class Retention:
    """Looks every few minutes for what may go. Several servers may do so: what one has deleted the other does not find.

    Args:
        ledger: The jobs.
        delete: Deletes an ended job with its results; raises ServiceError.
        state_dir: The folders of jobs lie under it.
        ttl: How long ended jobs are kept; None: for ever.
    """

    def __init__(
        self, *, ledger: Ledger, delete: Callable[[Job], Awaitable[None]], state_dir: Path, ttl: timedelta | None
    ) -> None:
        self._ledger = ledger
        self._delete = delete
        self._state_dir = state_dir
        self._ttl = ttl
        seconds = MAX_INTERVAL_S if ttl is None else ttl.total_seconds() / 10
        self._interval_s = min(max(seconds, MIN_INTERVAL_S), MAX_INTERVAL_S)

    async def run(self) -> None:
        """Do so for ever."""
        while True:
            await asyncio.sleep(random.uniform(0.5, 1.0) * self._interval_s)  # servers that started at once drift apart
            try:
                await self.expire()
                await self.sweep()
            except ServiceError as error:
                logger.warning("what is old could not be deleted now: %s", error.message)
            except Exception:
                logger.exception("what is old could not be deleted")

    async def expire(self) -> int:
        """Delete jobs that are older than they may be; how many. A job that cannot be deleted is left for later."""
        deleted, left = 0, set[str]()
        while self._ttl is not None:
            found = await self._ledger.ended_before(self._ttl.total_seconds(), limit=BATCH, besides=left)
            for job in found:
                if await self._expire(job):
                    deleted += 1
                else:
                    left.add(job.uid)
            if len(found) < BATCH:
                break
        return deleted

    async def sweep(self) -> None:
        """Remove the folders of jobs that were deleted by another server."""
        uids = await asyncio.to_thread(job_folders, self._state_dir)
        known = await self._ledger.look(uids) if uids else {}
        for uid in uids - known.keys():
            await asyncio.to_thread(remove_folder, self._state_dir, uid)

    async def _expire(self, job: Job) -> bool:
        try:
            await self._delete(job)
        except ServiceError as error:
            if error.reason == "JOB_NOT_FOUND":
                return True
            logger.warning("%s has expired but could not be deleted: %s", job.name, error.message)
            return False
        logger.info("%s (%s) has expired and was deleted", job.name, job.uid)
        return True
