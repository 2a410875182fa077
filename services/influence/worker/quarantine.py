"""Samples that could not be read, and the share of them that a job puts up with."""

from __future__ import annotations

from collections.abc import Iterator

from eif_engine.errors import TooManyQuarantined
from eif_engine.types import Quarantined

NAMED = 3
"""Samples that the error names."""


class Quarantine:
    """What could not be read of each split, in the order of its manifest.

    Args:
        max_fraction: Of the samples of a split, in [0, 1].
    """

    def __init__(self, max_fraction: float) -> None:
        self._max_fraction = max_fraction
        self._entries: dict[str, list[Quarantined]] = {}

    @property
    def count(self) -> int:
        """Samples put aside so far, of all splits."""
        return sum(len(entries) for entries in self._entries.values())

    def entries(self) -> Iterator[tuple[str, Quarantined]]:
        """Each with the name of its split."""
        for split, entries in self._entries.items():
            for entry in entries:
                yield split, entry

    def add(self, split: str, entry: Quarantined, *, total: int) -> None:
        """Put a sample aside.

        Args:
            split: Where it is from.
            entry: Why it could not be read.
            total: Samples of the split.

        Raises:
            TooManyQuarantined: It is one too many, or the last sample there was.
        """
        entries = self._entries.setdefault(split, [])
        entries.append(entry)
        allowed = int(self._max_fraction * total)
        if len(entries) > allowed or len(entries) == total:
            raise self._too_many(split, total, allowed)

    def _too_many(self, split: str, total: int, allowed: int) -> TooManyQuarantined:
        entries = self._entries[split]
        first = "; ".join(f"{entry.sample_id} ({entry.reason}: {entry.message})" for entry in entries[:NAMED])
        more = f"; and {len(entries) - NAMED} more" if len(entries) > NAMED else ""
        return TooManyQuarantined(
            f"{len(entries):,} of the {total:,} {split} samples could not be read so far, and {allowed:,} are allowed "
            f"(max_quarantined_fraction {self._max_fraction:g}): {first}{more}",
            split=split,
            quarantined=len(entries),
            total=total,
            limit=allowed,
        )
