"""Holds the leases of this server: renews them, and has a job stopped in time when that fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from services.influence.job import Job
from services.influence.lease import Lease, ProgressNote
from services.influence.ledger import Ledger

PROGRESS_INTERVAL_S = 2.0
"""Progress is stored for other servers at most this often."""

logger = logging.getLogger(__name__)


@dataclass
class _Held:
    """A lease of this server; times are of the event loop's clock, which nobody sets."""

    lease: Lease
    until: float
    stop: Callable[[], None]
    kill: Callable[[], None]
    note: ProgressNote | None = None
    is_noted: bool = True
    timers: list[asyncio.TimerHandle] = field(default_factory=list)

    def disarm(self) -> None:
        for timer in self.timers:
            timer.cancel()
        self.timers.clear()


class LeaseKeeper:
    """Renews every lease each quarter of its time.

    A lease counts from before it was asked for, so it ends here before it does in the table. When three renewals have
    failed the job is told to stop, with a quarter of the lease left for that; just before the end its process is
    killed. From then on `is_ours` is false, and nothing more may be said of the job.

    Args:
        ledger: The jobs.
        lease_s: Seconds that a lease lasts.
    """

    def __init__(self, ledger: Ledger, *, lease_s: float) -> None:
        self._ledger = ledger
        self._lease_s = lease_s
        self._held: dict[str, _Held] = {}
        self._renewed_at = float("-inf")
        self._noted_at = float("-inf")

    def hold(self, lease: Lease, *, asked_at: float, stop: Callable[[], None], kill: Callable[[], None]) -> None:
        """Keep a lease.

        Args:
            lease: Just given.
            asked_at: The event loop's time before it was asked for.
            stop: Has the job stopped; called when the lease is lost, or is about to end.
            kill: Ends its process at once.
        """
        held = self._held[lease.uid] = _Held(lease=lease, until=asked_at + self._lease_s, stop=stop, kill=kill)
        self._arm(held)

    def let_go(self, uid: str) -> None:
        """Renew it no more."""
        held = self._held.pop(uid, None)
        if held is not None:
            held.disarm()

    def is_ours(self, lease: Lease) -> bool:
        """Whether nobody else can have claimed the job since, as far as is known here."""
        held = self._held.get(lease.uid)
        return held is not None and held.lease == lease and asyncio.get_running_loop().time() < held.until

    def note(self, job: Job, note: ProgressNote) -> None:
        """Tell other servers how far a job is, with the next renewal or soon."""
        held = self._held.get(job.uid)
        if held is not None:
            held.note, held.is_noted = note, False

    def lose(self, lease: Lease) -> None:
        """Somebody else has claimed the job."""
        held = self._held.get(lease.uid)
        if held is None or held.lease != lease or held.until == float("-inf"):
            return
        logger.warning("the lease of job %s (epoch %d) is lost: stopping its process", lease.uid, lease.epoch)
        held.disarm()
        held.until = float("-inf")
        held.stop()

    def lease_of(self, uid: str) -> Lease | None:
        """The lease of a job, if this server holds it."""
        held = self._held.get(uid)
        return None if held is None else held.lease

    async def run(self) -> None:
        """Renew leases for ever."""
        while True:
            await asyncio.sleep(min(1.0, self._lease_s / 16))
            if self._is_due():
                try:
                    await self._renew()
                except Exception as error:  # noqa: BLE001  whatever it is, the next try comes; timers see to the jobs
                    logger.warning("leases could not be renewed: %s", error)

    def _is_due(self) -> bool:
        time = asyncio.get_running_loop().time()
        if not self._held:
            return False
        if time - self._renewed_at >= self._lease_s / 4:
            return True
        news = self._ledger.shared and any(not held.is_noted for held in self._held.values())
        return news and time - self._noted_at >= PROGRESS_INTERVAL_S

    async def _renew(self) -> None:
        asked_at = asyncio.get_running_loop().time()
        asked = {uid: held for uid, held in self._held.items() if held.until > asked_at}
        notes = {held.lease: held.note if self._ledger.shared else None for held in asked.values()}
        told = [held.note for held in asked.values()]
        lost = await self._ledger.renew(notes, lease_s=self._lease_s)
        self._renewed_at = self._noted_at = asked_at
        for held, note in zip(asked.values(), told, strict=True):
            held.is_noted = held.is_noted or held.note is note
            if held.lease in lost:
                self.lose(held.lease)
            elif self._held.get(held.lease.uid) is held and held.until > asked_at:
                held.until = asked_at + self._lease_s
                self._arm(held)

    def _arm(self, held: _Held) -> None:
        held.disarm()
        loop = asyncio.get_running_loop()
        held.timers = [
            loop.call_at(held.until - self._lease_s / 4, self._give_up, held),
            loop.call_at(held.until - self._lease_s / 16, self._end, held),
        ]

    def _give_up(self, held: _Held) -> None:
        logger.warning("the lease of job %s could not be renewed: stopping its process", held.lease.uid)
        held.stop()

    def _end(self, held: _Held) -> None:
        logger.warning("the lease of job %s ends: the job is left to other servers", held.lease.uid)
        held.until = float("-inf")
        held.kill()
