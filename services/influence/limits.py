"""What the process of a job may take, and the watch that notices when it takes more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from services.common.errors import ServiceError
from services.influence.messages import Message, ProgressMessage
from services.influence.process_memory import can_be_measured, session_bytes

_LOOKING = ThreadPoolExecutor(1, thread_name_prefix="job-memory")
"""Of its own: a store that hangs may hold up every other thread."""


@dataclass(frozen=True, kw_only=True)
class JobLimits:
    """Limits of one job process, its children included. None: no limit.

    Attributes:
        memory_bytes: Resident and swapped memory, pages of files left out. Linux only.
        time_s: Seconds from the start of the process.
        stall_s: Seconds without any progress.
        poll_s: Seconds between looks.
    """

    memory_bytes: int | None = None
    time_s: float | None = None
    stall_s: float | None = None
    poll_s: float = 0.25

    def __post_init__(self) -> None:
        if self.memory_bytes is not None and not can_be_measured():
            raise ServiceError(
                "ARGUMENT_INVALID",
                "max_job_memory_bytes is set, but this system does not tell the memory of a process in /proc: unset it",
                field="max_job_memory_bytes",
            )


LIMITS = frozenset({"OUT_OF_MEMORY", "TIME_LIMIT_EXCEEDED", "JOB_STALLED"})
"""Reasons of a Breach that is the process's own; with others it was lost."""


@dataclass(frozen=True, kw_only=True)
class Breach:
    """A limit that a job process broke, and for which it was ended; on a cluster also that it was lost.

    Attributes:
        reason: One of LIMITS; on a cluster also WORKER_CRASHED, CLUSTER_UNAVAILABLE, CLUSTER_DENIED, one of the store.
        message: For the caller.
        metadata: The dynamic parts of the message.
        at_once: No time to end by itself: it would take more still.
        again: Another run may end better.
    """

    reason: str
    message: str
    metadata: dict[str, str] = field(default_factory=dict)
    at_once: bool = False
    again: bool = False


class Watch:
    """Watches one process.

    Args:
        limits: What it may take.
        session: Its session, all members of which count.
        age_s: How long it runs already.
        clock: Seconds, monotonic.
    """

    def __init__(
        self, limits: JobLimits, session: int, *, age_s: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limits, self._session, self._clock = limits, session, clock
        self._moved = clock()
        self._started = self._moved - age_s
        self._last: ProgressMessage | None = None

    def saw(self, message: Message) -> None:
        """Take note of progress: a message that says the same as the one before is none."""
        if isinstance(message, ProgressMessage) and message != self._last:
            self._last, self._moved = message, self._clock()

    async def breach(self) -> Breach:
        """Return once a limit is broken; where none is, wait for ever."""
        while True:
            found = self.out_of_time() or self.stalled() or await self._out_of_memory()
            if found is not None:
                return found
            await asyncio.sleep(self._limits.poll_s)

    def out_of_time(self) -> Breach | None:
        """The breach, when it has run for too long."""
        limit = self._limits.time_s
        if limit is None or self._clock() - self._started <= limit:
            return None
        return Breach(
            reason="TIME_LIMIT_EXCEEDED",
            message=f"the job ran longer than the {limit:g} s that this server allows: give it fewer samples or "
            "queries, or have EIF_INFLUENCE_JOB_TIME_LIMIT_S raised",
            metadata={"limit_s": f"{limit:g}"},
        )

    def stalled(self) -> Breach | None:
        """The breach, when it has made no progress for too long."""
        limit = self._limits.stall_s
        if limit is None or self._clock() - self._moved <= limit:
            return None
        return Breach(
            reason="JOB_STALLED",
            message=f"the job made no progress for {limit:g} s: a device or a file system hangs, or "
            "EIF_INFLUENCE_JOB_STALL_S is too short for its longest step",
            metadata={"limit_s": f"{limit:g}"},
            again=True,
        )

    async def _out_of_memory(self) -> Breach | None:
        limit = self._limits.memory_bytes
        if limit is None:
            return None
        used = await asyncio.get_running_loop().run_in_executor(_LOOKING, session_bytes, self._session)
        if used <= limit:
            return None
        return Breach(
            reason="OUT_OF_MEMORY",
            message=f"the job took {used:,} bytes of memory, and this server allows {limit:,}: give it fewer samples "
            "or queries at a time, or have EIF_INFLUENCE_MAX_JOB_MEMORY_BYTES raised",
            metadata={"used_bytes": str(used), "limit_bytes": str(limit)},
            at_once=True,
        )
