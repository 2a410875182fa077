"""A ranking, chunk by chunk and by columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from services.influence.results import Ranking

if TYPE_CHECKING:  # pyarrow is imported with the first table that is asked for
    import pyarrow as pa

MAX_CHUNK_BYTES = 512 << 10
"""Clients take some chunks ahead of a reader that stalls: 12 MiB of these, 20 MiB of chunks of 2 MiB."""

_TEXT_COLUMNS = ("sample_id", "label", "suggested_label")
_ROW_BYTES = 24


@dataclass(frozen=True, kw_only=True)
class RankedChunk:
    """Part of a ranking, see RankedSamplesChunk in results.proto. `position` is the row after it, from 0."""

    query_id: str
    first_rank: int
    sample_ids: list[str]
    scores: NDArray[np.float64]
    labels: list[str]
    suggested_labels: list[str]
    suggested_probabilities: NDArray[np.float64]
    total_rows: int
    offset: int

    @property
    def position(self) -> int:
        """Rows of the ranking up to its end."""
        return self.offset + len(self.sample_ids)


def read_chunks(
    ranking: Ranking, *, start: int, end: int, chunk_rows: int, helpful_first: bool
) -> Iterator[RankedChunk]:
    """The rows from `start` to before `end`, counted from the end asked for.

    Helpful first is the exact reverse. A chunk ends where ranks have a gap, and before it grows past MAX_CHUNK_BYTES.
    """
    end = min(end, ranking.span.count)
    while start < end:
        chunk = read_chunk(ranking, start, min(chunk_rows, end - start), helpful_first=helpful_first)
        yield chunk
        start = chunk.position


def read_chunk(ranking: Ranking, start: int, count: int, *, helpful_first: bool) -> RankedChunk:
    """At most `count` rows from `start` on, and at least one."""
    span = ranking.span
    first = span.start + (span.count - start - count if helpful_first else start)
    rows = ranking.table.read(first, count)
    ranks = rows["rank"].to_numpy()
    if helpful_first:
        ranks = _last_rank(ranking) + 1 - ranks[::-1]
    count = min(_until_gap(ranks), _until_full(rows, reverse=helpful_first))
    rows = rows.slice(len(rows) - count) if helpful_first else rows.slice(0, count)
    return RankedChunk(
        query_id=ranking.query_id,
        first_rank=int(ranks[0]),
        sample_ids=_texts(rows, "sample_id", reverse=helpful_first),
        scores=_numbers(rows, "score", reverse=helpful_first),
        labels=_texts(rows, "label", reverse=helpful_first),
        suggested_labels=_texts(rows, "suggested_label", reverse=helpful_first),
        suggested_probabilities=_numbers(rows, "suggested_probability", reverse=helpful_first),
        total_rows=span.count,
        offset=start,
    )


def _last_rank(ranking: Ranking) -> int:
    """The rank of the most helpful sample: how many were ranked, also where only both ends are kept."""
    last = ranking.table.read(ranking.span.start + ranking.span.count - 1, 1)
    return int(last["rank"][0].as_py())


def _until_gap(ranks: NDArray[np.int64]) -> int:
    gaps = np.flatnonzero(np.diff(ranks) != 1)
    return int(gaps[0]) + 1 if len(gaps) else len(ranks)


def _until_full(rows: pa.Table, *, reverse: bool) -> int:
    import pyarrow.compute as pc

    sizes = np.full(len(rows), _ROW_BYTES, dtype=np.int64)
    for name in _TEXT_COLUMNS:
        if name in rows.column_names:
            sizes += pc.binary_length(rows[name]).to_numpy()
    room = np.cumsum(sizes[::-1] if reverse else sizes) <= MAX_CHUNK_BYTES
    return max(1, int(np.count_nonzero(room)))


def _texts(rows: pa.Table, name: str, *, reverse: bool) -> list[str]:
    if name not in rows.column_names:
        return []
    values: list[Any] = rows[name].to_pylist()
    return values[::-1] if reverse else values


def _numbers(rows: pa.Table, name: str, *, reverse: bool) -> NDArray[np.float64]:
    if name not in rows.column_names:
        return np.empty(0)
    values = rows[name].to_numpy()
    return values[::-1] if reverse else values
