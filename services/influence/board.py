"""Where changes of jobs are made known to those who watch them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from services.influence.job import Job

MIN_INTERVAL_S = 0.2
"""Progress of one job is made known at most this often; changes of state at once."""


class Notice:
    """The newest form of one job. All who wait for a newer one wait for the same event."""

    def __init__(self) -> None:
        self.job: Job | None = None
        self.number = 0
        self.watchers = 0
        self._changed = asyncio.Event()
        self._published_at = float("-inf")
        self._timer: asyncio.TimerHandle | None = None

    def post(self, job: Job) -> None:
        """A new form of the job: made known at once when its state or version is new, else with the next others."""
        urgent = self.job is None or job.version != self.job.version
        self.job = job
        loop = asyncio.get_running_loop()
        wait = self._published_at + MIN_INTERVAL_S - loop.time()
        if urgent or wait <= 0:
            self._publish()
        elif self._timer is None:
            self._timer = loop.call_later(wait, self._publish)

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
    """One notice for each job that runs or is watched. Used on the event loop only."""

    def __init__(self) -> None:
        self._notices: dict[str, Notice] = {}
        self.closed = False

    def close(self) -> None:
        """The server stops: wake everyone who waits; nothing more will be made known."""
        self.closed = True
        for notice in self._notices.values():
            notice.wake()

    def post(self, job: Job) -> None:
        """Make a form of a job known. That of an ended job is the last, and kept only as long as it is watched."""
        notice = self._notices.get(job.uid)
        if notice is None:
            if not job.state.active:
                return
            notice = self._notices[job.uid] = Notice()
        elif notice.job is not None and notice.job.version > job.version:
            return  # overtaken by a later change on its way here
        notice.post(job)
        self._drop_if_unused(job.uid, notice)

    def newest(self, job: Job) -> Job:
        """The job with what is known since it was stored: its progress."""
        notice = self._notices.get(job.uid)
        known = notice.job if notice is not None else None
        return known if known is not None and known.version >= job.version else job

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
        if notice.watchers == 0 and (notice.job is None or not notice.job.state.active):
            notice.close()
            self._notices.pop(uid, None)
