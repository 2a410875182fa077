"""Features by row, wherever they are."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class FeatureRows(Protocol):
    """A tensor (also one in a mapped file), or shards on a disk."""

    def __len__(self) -> int:
        """N."""
        ...

    def __getitem__(self, rows: slice, /) -> Tensor:
        """Features (n, F) of a range of rows."""
        ...
