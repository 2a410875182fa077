"""What the probes of a server look at."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from services.common.ops import Check


class Lifecycle:
    """From the start of a server to its end.

    Args:
        stopping: Set when its drain begins.
    """

    def __init__(self, stopping: asyncio.Event) -> None:
        self._stopping = stopping
        self._started = False

    def begin(self) -> None:
        """It accepts calls."""
        self._started = True

    async def started(self) -> str | None:
        """What is wrong: it has not begun to accept calls."""
        return None if self._started else "calls are not accepted yet"

    async def accepting(self) -> str | None:
        """What is wrong: it drains."""
        return "this server stops" if self._stopping.is_set() else None


async def event_loop() -> str | None:
    """Nothing is wrong with what runs this."""
    return None


def probes(
    lifecycle: Lifecycle, *, live: Mapping[str, Check], ready: Mapping[str, Check]
) -> Mapping[str, Mapping[str, Check]]:
    """The checks by path.

    Args:
        lifecycle: Of the server.
        live: What must be sound, or only a restart helps.
        ready: What must be there for calls to succeed.
    """
    started = {"started": lifecycle.started}
    return {
        "/livez": {"event_loop": event_loop, **live},
        "/readyz": {**started, "accepting": lifecycle.accepting, **ready},
        "/startupz": started,
    }
