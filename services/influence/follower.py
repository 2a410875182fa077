"""Sees what other servers do to the jobs that run here, or are watched here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from services.common.errors import ServiceError
from services.influence.job import Job, advance
from services.influence.lease import Glance
from services.influence.lease_keeper import LeaseKeeper
from services.influence.ledger import Ledger

LOOK_S = 1.0
"""Between two looks at the table, each one query for all jobs."""
PATIENCE_S = 5.0
"""After which watches of jobs that run elsewhere end when the table is away."""

logger = logging.getLogger(__name__)


class Follower:
    """Looks at the stored jobs every second, and makes known what is new of them.

    Args:
        ledger: The jobs.
        keeper: Is told of leases that are lost.
        on_change: Called with each job that runs here and was changed by another server: it may be cancelled.
    """

    def __init__(self, ledger: Ledger, keeper: LeaseKeeper, *, on_change: Callable[[Job], None]) -> None:
        self._ledger = ledger
        self._board = ledger.board
        self._keeper = keeper
        self._on_change = on_change
        self._failing_since: float | None = None

    async def run(self) -> None:
        """Look for ever; where no other server can be, there is nothing to see."""
        while self._ledger.shared:
            await asyncio.sleep(LOOK_S)
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await self.look()
            except (ServiceError, TimeoutError) as error:
                self._fail(error)
            except Exception:
                logger.exception("the job table could not be looked at")
            else:
                self._failing_since = None

    async def look(self) -> None:
        """See what is new of every job that is held or watched here."""
        leases = {uid: self._keeper.lease_of(uid) for uid in self._board.held}
        uids = self._board.watched | leases.keys()
        if not uids:
            return
        seen = await self._ledger.look(uids)
        for uid, lease in leases.items():
            if lease is not None and (uid not in seen or seen[uid].lease not in {lease, None}):
                self._keeper.lose(lease)
        await self._post_changed(seen)
        self._post_progress(seen)
        for uid in uids - seen.keys():
            self._board.lose(uid)

    async def _post_changed(self, seen: Mapping[str, Glance]) -> None:
        changed = [uid for uid, glance in seen.items() if self._version(uid) < glance.version]
        for job in await self._ledger.fetch(changed) if changed else ():
            self._board.post(job)
            if (lease := self._keeper.lease_of(job.uid)) is not None:
                if job.state.active:
                    self._on_change(job)
                else:
                    self._keeper.lose(lease)

    def _post_progress(self, seen: Mapping[str, Glance]) -> None:
        for uid in seen.keys() - self._board.held:
            known, glance = self._board.known(uid), seen[uid]
            if known is not None and known.version == glance.version and known.state.active and glance.note:
                note = glance.note
                self._board.post(advance(known, note.progress, note.eta_s, note.time))

    def _version(self, uid: str) -> int:
        known = self._board.known(uid)
        return 0 if known is None else known.version

    def _fail(self, error: ServiceError | TimeoutError) -> None:
        """End watches that can learn nothing more here; another server may know more."""
        time = asyncio.get_running_loop().time()
        if self._failing_since is None:
            self._failing_since = time
            logger.warning("the job table cannot be read: %s", str(error) or "no answer")
        if time - self._failing_since < PATIENCE_S:
            return
        what = "the job table cannot be read now; watch again"
        for uid in self._board.watched - self._board.held:
            self._board.lose(uid, ServiceError("JOB_TABLE_UNAVAILABLE", what))
