"""Waits for a condition, and fails when it does not come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


async def eventually(condition: Callable[[], bool], *, within_s: float = 20.0) -> None:
    """Return once `condition` holds."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen within {within_s:g} s"
        await asyncio.sleep(0.01)


def wait_until(condition: Callable[[], bool], *, within_s: float = 20.0) -> None:
    """The same where there is no event loop."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen within {within_s:g} s"
        time.sleep(0.01)
