"""One run of a job on the cluster, as a server follows it: what it says, when it is told to stop, how long it is away.

Cluster and object store may be away at any moment; that is waited out here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

from services.common.errors import ServiceError
from services.influence.limits import Breach, JobLimits, Watch
from services.influence.messages import Message, ProgressMessage, TotalsMessage
from services.influence.ray_cluster import ClusterJob, RayCluster
from services.influence.run_folder import RunFolder
from services.influence.runner import LastMessage, OnMessage

logger = logging.getLogger(__name__)


class RayRun:
    """A run under way.

    Args:
        cluster: Where.
        on_message: Takes what its process says.
        limits: What it may take.
        patience_s: How long cluster and store may be away before it counts as lost.
        poll_s: Between two looks.

    Attributes:
        asked_to_stop: Somebody wants it to end.
        tried: The cluster may have it, also where it did not say so.
        breach: The limit for which it ends, or ended; None where there is none.
        last: The last message of its process, once there is one.
    """

    def __init__(
        self, cluster: RayCluster, on_message: OnMessage, *, limits: JobLimits, patience_s: float, poll_s: float
    ) -> None:
        self._cluster, self._on_message, self._limits = cluster, on_message, limits
        self._patience_s, self._poll_s = patience_s, poll_s
        self.asked_to_stop = self.tried = False
        self.breach: Breach | None = None
        self.last: LastMessage | None = None
        self._left = self._told_to_stop = False
        self._seen: list[Message] = []
        self._away_since: float | None = None
        self._watch: Watch | None = None
        self._wake = asyncio.Event()

    def stop(self) -> None:
        """End it."""
        self.asked_to_stop = True
        self._wake.set()

    def leave(self) -> None:
        """Follow it no longer; it goes on."""
        self._left = True
        self._wake.set()

    async def started(self, start: Callable[[], Awaitable[ClusterJob]]) -> ClusterJob | None:
        """The job that `start` gives, called until it does; None when there is to be none."""
        while not (self.asked_to_stop or self._left):
            self.tried = True
            try:
                return await start()
            except ServiceError as error:
                if self._gone_for_good(error):
                    return None
            await self._pause()
        return None

    async def followed(self, job: ClusterJob, folder: RunFolder) -> ClusterJob | None:
        """The job at its end, all that it said handed on; None when it was left, or cluster or store stayed away."""
        while self.asked_to_stop or not self._left:
            try:
                await self._tell_to_stop(job)
                job = await self._look(job)
                await self._begin_watch(job, folder)
                await self._read(folder)
            except ServiceError as error:
                if self._gone_for_good(error):
                    return None
            else:
                self._away_since = None
                if job.ended:
                    return job
            await self._pause()
        return None

    async def _read(self, folder: RunFolder) -> None:
        """Hand on what was not said before; messages stay where they are until newer ones take their place."""
        for message in await asyncio.to_thread(folder.read_messages):
            if message not in self._seen:
                self._take(message)

    def _take(self, message: Message) -> None:
        self._seen = [other for other in self._seen if type(other) is not type(message)] + [message]
        if self._watch is not None:
            self._watch.saw(message)
        if not isinstance(message, ProgressMessage | TotalsMessage):
            self.last = message
        self._on_message(message)

    async def _look(self, job: ClusterJob) -> ClusterJob:
        found = await self._cluster.find(job.submission_id)
        if found is None:
            return replace(job, status="FAILED", message="the cluster does not know the job any more")
        if self._told_to_stop and found.status == "PENDING":  # Ray ends it as soon as it gets a place, and begins
            return replace(found, status="STOPPED", message="it waited for a place on the cluster")
        return found

    async def _begin_watch(self, job: ClusterJob, folder: RunFolder) -> None:
        """Limits count from the start of the process, not from when the job began to wait for a place."""
        if self._watch is None and job.status == "RUNNING":
            self._watch = Watch(self._limits, 0, age_s=await asyncio.to_thread(folder.age_s))

    async def _tell_to_stop(self, job: ClusterJob) -> None:
        if job.ended:
            return
        if self._watch is not None and self.breach is None and not self.asked_to_stop:
            self.breach = self._watch.out_of_time() or self._watch.stalled()
        if (self.asked_to_stop or self.breach is not None) and not self._told_to_stop:
            await self._cluster.stop(job.submission_id)
            self._told_to_stop = True

    def _gone_for_good(self, error: ServiceError) -> bool:
        """Whether cluster or store have been away for longer than one waits; notes why."""
        now = asyncio.get_running_loop().time()
        self._away_since = self._away_since or now
        if now - self._away_since <= self._patience_s:
            return False
        what = f"{error.message}, for {self._patience_s:g} s"
        self.breach = self.breach or Breach(reason=error.reason, message=what, metadata=error.metadata, again=True)
        return True

    async def _pause(self) -> None:
        if self._told_to_stop:
            self._wake.clear()
        try:
            async with asyncio.timeout(self._poll_s):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()
