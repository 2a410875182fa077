"""Where changes of jobs are made known to those who watch them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from services.common.errors import ServiceError
from services.influence.job import Job

MIN_INTERVAL_S = 0.2
"""Progress of one job is made known at most this often; changes of state at once."""


class Notice:
    """The newest form of one job. All who wait for a newer one wait for the same event.

    `error` is why nothing is known any more; it is told to those who wait, and is gone with the next form.
    """

    def __init__(self) -> None:
        self.job: Job | None = None
        self.error: ServiceError | None = None
        self.number = 0
        self.watchers = 0
        self._changed = asyncio.Event()
        self._published_at = float("-inf")
        self._timer: asyncio.TimerHandle | None = None

    def post(self, job: Job) -> None:
        """A new form of the job: made known at once when its state or version is new, else with the next others."""
        urgent = self.job is None or job.version != self.job.version
        self.job = job
        self.error = None
        loop = asyncio.get_running_loop()
        wait = self._published_at + MIN_INTERVAL_S - loop.time()
        if urgent or wait <= 0:
            self._publish()
        elif self._timer is None:
            self._timer = loop.call_later(wait, self._publish)

    def seed(self, job: Job) -> None:
        """The form that a watch begins with, which is no news."""
        if self.job is None:
            self.job = job

    def lose(self, error: ServiceError | None = None) -> None:
        """What the job is now is not known: it is gone, or `error` says why nothing can be learnt."""
        self.job = None
        self.error = error
        self._publish()

    async def newer_than(self, number: int, *, timeout_s: float) -> bool:
        """Wait until there is a form after `number`; false when there was none in time."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.number == number:
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def wake(self) -> None:
        """Let everyone who waits look again."""
        self._publish()

    def close(self) -> None:
        """Forget what is still to be made known."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _publish(self) -> None:
        self.close()
        self._published_at = asyncio.get_running_loop().time()
        self.number += 1
        self._changed.set()
        self._changed = asyncio.Event()


class Board:
    """One notice for each job that this server holds, or that is watched here. Used on the event loop only."""

    def __init__(self) -> None:
        self._notices: dict[str, Notice] = {}
        self._held: set[str] = set()
        self.closed = False

    def close(self) -> None:
        """The server stops: wake everyone who waits; nothing more will be made known."""
        self.closed = True
        for notice in self._notices.values():
            notice.wake()

    @property
    def held(self) -> frozenset[str]:
        """Uids of the jobs that this server holds: what is new of them comes from here."""
        return frozenset(self._held)

    @property
    def watched(self) -> frozenset[str]:
        """Uids of the jobs that somebody watches here."""
        return frozenset(uid for uid, notice in self._notices.items() if notice.watchers)

    def hold(self, job: Job) -> None:
        """This server runs the job from now on."""
        self._held.add(job.uid)
        self.post(job)

    def let_go(self, uid: str) -> None:
        """It does so no more."""
        self._held.discard(uid)
        if (notice := self._notices.get(uid)) is not None:
            self._drop_if_unused(uid, notice)

    def post(self, job: Job) -> None:
        """Make a form of a job known, if it is held or watched here and is not overtaken by a later one."""
        notice = self._notices.get(job.uid)
        if notice is None:
            if job.uid not in self._held:
                return
            notice = self._notices[job.uid] = Notice()
        elif notice.job is not None and (notice.job.version > job.version or notice.job == job):
            return
        notice.post(job)
        self._drop_if_unused(job.uid, notice)

    def known(self, uid: str) -> Job | None:
        """The newest form that was made known, if it is still kept."""
        notice = self._notices.get(uid)
        return None if notice is None else notice.job

    def newest(self, job: Job) -> Job:
        """The job with what is known since it was stored: its progress, where it runs here."""
        known = self.known(job.uid)
        if known is None or known.version < job.version:
            return job
        return known if known.version > job.version or job.uid in self._held else job

    def lose(self, uid: str, error: ServiceError | None = None) -> None:
        """See Notice.lose."""
        if (notice := self._notices.get(uid)) is not None:
            notice.lose(error)

    @contextmanager
    def watch(self, uid: str) -> Iterator[Notice]:
        """The notice of a job, which is kept until the end of the block."""
        notice = self._notices.setdefault(uid, Notice())
        notice.watchers += 1
        try:
            yield notice
        finally:
            notice.watchers -= 1
            self._drop_if_unused(uid, notice)

    def __len__(self) -> int:
        return len(self._notices)

    def _drop_if_unused(self, uid: str, notice: Notice) -> None:
        if notice.watchers == 0 and uid not in self._held:
            notice.close()
            self._notices.pop(uid, None)
