"""Work that must be done, however long the object store or the job table are away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from services.common.errors import ServiceError

TRANSIENT = frozenset({"STORAGE_UNAVAILABLE", "RESOURCE_PROBLEM", "JOB_TABLE_UNAVAILABLE"})
"""Reasons that go away by themselves."""

_T = TypeVar("_T")

logger = logging.getLogger(__name__)


async def persistently(
    work: Callable[[], Awaitable[_T]], *, first_wait_s: float = 0.5, longest_wait_s: float = 15.0
) -> _T:
    """Do `work` again, with growing waits, for as long as it fails for a transient reason."""
    wait_s = first_wait_s
    while True:
        try:
            return await work()
        except ServiceError as error:
            if error.reason not in TRANSIENT:
                raise
            logger.warning("trying again in %.1f s: %s", wait_s, error.message)
        await asyncio.sleep(wait_s)
        wait_s = min(2 * wait_s, longest_wait_s)
