"""The differences between the findings of two audits: row numbers, not rows, so that a million take 8 MB a table.

Needs pyarrow: it is imported with the first comparison that is asked for.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from services.influence.gate.verdict import Change, ChangeCount
from services.influence.stored_table import StoredTable

Rows = NDArray[np.int64]
_ORDER = (Change.NEW, Change.FIXED, Change.PERSISTING)


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Findings of one kind with one change: rows of the audit's table, of the baseline's where they are fixed."""

    change: Change
    kind: str
    rows: Rows


class Differences:
    """What is new, fixed and persisting. Findings are the same when their finding_id is.

    Args:
        audit: The findings of the audit.
        baseline: Those of the earlier one.
    """

    def __init__(self, audit: StoredTable, baseline: StoredTable) -> None:
        ours, theirs = _keys(audit), _keys(baseline)
        new, persisting = _split(ours, among=theirs)
        fixed, _ = _split(theirs, among=ours)
        self._segments = {
            Change.NEW: tuple(_by_kind(Change.NEW, ours, new)),
            Change.FIXED: tuple(_by_kind(Change.FIXED, theirs, fixed)),
            Change.PERSISTING: tuple(_by_kind(Change.PERSISTING, ours, persisting)),
        }

    @property
    def size(self) -> int:
        """Findings of both."""
        return sum(len(segment.rows) for segments in self._segments.values() for segment in segments)

    def segments(self, changes: Collection[Change], kinds: Collection[str]) -> list[Segment]:
        """New ones first, then fixed, then persisting; within each by kind and finding id. No kinds means all."""
        return [
            segment
            for change in _ORDER
            if change in changes
            for segment in self._segments[change]
            if not kinds or segment.kind in kinds
        ]

    def counts(self) -> tuple[ChangeCount, ...]:
        """Of every kind that either audit has, by kind."""
        found: dict[str, dict[Change, int]] = {}
        for change, segments in self._segments.items():
            for segment in segments:
                found.setdefault(segment.kind, {})[change] = len(segment.rows)
        return tuple(
            ChangeCount(
                kind=kind,
                new=of_kind.get(Change.NEW, 0),
                fixed=of_kind.get(Change.FIXED, 0),
                persisting=of_kind.get(Change.PERSISTING, 0),
            )
            for kind, of_kind in sorted(found.items())
        )


def window(segments: list[Segment], *, offset: int, count: int) -> Iterator[Segment]:
    """The part of segments, laid end to end, that starts at `offset`; empty pieces are left out."""
    for segment in segments:
        piece = segment.rows[offset : offset + count]
        offset = max(0, offset - len(segment.rows))
        count -= len(piece)
        if len(piece):
            yield Segment(change=segment.change, kind=segment.kind, rows=piece)


def _keys(table: StoredTable) -> pa.Table:
    return table.read(0, len(table)).select(["kind", "finding_id"])


def _split(keys: pa.Table, *, among: pa.Table) -> tuple[Rows, Rows]:
    """Row numbers by kind and finding id: of findings that are not among the others, and of those that are."""
    order = pc.sort_indices(keys, sort_keys=[("kind", "ascending"), ("finding_id", "ascending")]).to_numpy()
    known = pc.is_in(keys["finding_id"], value_set=among["finding_id"].combine_chunks())
    is_known = known.to_numpy()[order]
    return order[~is_known].astype(np.int64), order[is_known].astype(np.int64)


def _by_kind(change: Change, keys: pa.Table, rows: Rows) -> Iterator[Segment]:
    """Cut rows that are sorted by kind where the kind changes."""
    encoded = keys["kind"].combine_chunks().dictionary_encode()
    kinds = [str(kind) for kind in encoded.dictionary.to_pylist()]
    numbers = encoded.indices.to_numpy()[rows]
    bounds = [*np.flatnonzero(np.diff(numbers, prepend=-1)).tolist(), len(rows)]
    for start, end in itertools.pairwise(bounds):
        yield Segment(change=change, kind=kinds[numbers[start]], rows=rows[start:end])
