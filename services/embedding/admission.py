"""How much work may wait: what does not fit is refused at once, before anything is fetched, decoded or computed."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from services.common.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Iterator


class Admission:
    """Permits for items and their bytes. Used from one event loop.

    Args:
        what: What the items are, for the message.
        max_items: Items that may be in work or wait at a time.
        max_bytes: Bytes of them that callers sent.
    """

    def __init__(self, what: str, *, max_items: int, max_bytes: int) -> None:
        self._what = what
        self._max_items, self._max_bytes = max_items, max_bytes
        self._items, self._bytes = 0, 0

    @property
    def items(self) -> int:
        """Items in work or waiting."""
        return self._items

    @property
    def size(self) -> int:
        """Their bytes."""
        return self._bytes

    @contextmanager
    def hold(self, *, items: int, size: int = 0) -> Iterator[None]:
        """Take permits for a request, or raise QUEUE_FULL. A request is always admitted when nothing else is."""
        items_after, bytes_after = self._items + items, self._bytes + size
        if self._items and (items_after > self._max_items or bytes_after > self._max_bytes):
            raise ServiceError(
                "QUEUE_FULL",
                f"{self._items} {self._what} ({self._bytes:,} bytes) are waiting, and {items} more would pass "
                f"the limit of {self._max_items} ({self._max_bytes:,} bytes): try again in a moment",
                waiting=self._items,
                limit=self._max_items,
            )
        self._items, self._bytes = items_after, bytes_after
        try:
            yield
        finally:
            self._items -= items
            self._bytes -= size
