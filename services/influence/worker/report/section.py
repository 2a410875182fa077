"""A part of the page as rows of plain values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Section:
    """Rows for the page.

    Attributes:
        rows: Plain values; samples and labels by their number in the book.
        total: Rows that there are, shown or not.
        pictures: Numbers of the samples that each row shows, in the order of the rows.
    """

    rows: Sequence[Sequence[Any]]
    total: int
    pictures: Sequence[Sequence[int]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As the page reads it."""
        return {"rows": self.rows, "total": self.total}


def probability(value: float) -> float | None:
    """As `number`, but never quite 1: an estimate that rounds to certainty would read as one."""
    return number(min(value, 1 - 1e-6))


def number(value: float | None, digits: int = 6) -> float | None:
    """A number with so many significant digits; None where there is none."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.{digits}g}")
