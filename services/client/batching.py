"""Many items in requests of a bounded size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def batches(
    items: Iterable[Item], *, max_items: int, max_bytes: int, bytes_of: Callable[[Item], int]
) -> Iterator[list[Item]]:
    """Items in their order, so many (0: any number) and so many bytes at once at most; a larger one goes alone."""
    batch: list[Item] = []
    held = 0
    for item in items:
        size = bytes_of(item)
        if batch and (len(batch) == max_items or held + size > max_bytes):
            yield batch
            batch, held = [], 0
        batch.append(item)
        held += size
    if batch:
        yield batch
