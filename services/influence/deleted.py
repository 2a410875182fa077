"""Results that somebody deletes while somebody else reads them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.common.errors import ServiceError
from services.influence.ledger import Ledger

_CHECKS, _EVERY_S = 10, 0.1
_GONE = frozenset({"RESULT_CORRUPT", "OBJECT_NOT_FOUND", "OBJECT_CHANGED"})


@asynccontextmanager
async def unless_deleted(ledger: Ledger, *names: str) -> AsyncIterator[None]:
    """A result that is not whole because its job is being deleted is said to be gone: JOB_NOT_FOUND.

    A delete removes the result before the job, so the job may still be there for a moment.
    """
    try:
        yield
    except ServiceError as error:
        if error.reason not in _GONE:
            raise
        for _ in range(_CHECKS):
            for name in names:
                await ledger.get(name)
            await asyncio.sleep(_EVERY_S)
        raise
