"""Groups of duplicates: leaks first, then label conflicts; some members of each, however large it is."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np

from services.influence.tables import SCHEMAS
from services.influence.worker.report.limits import RowLimits
from services.influence.worker.report.report_tables import ReportTables, Row
from services.influence.worker.report.sample_book import SampleBook
from services.influence.worker.report.section import Section, number


def duplicates(tables: ReportTables, book: SampleBook, limits: RowLimits) -> Section:
    """A row a group."""
    table = tables.columns("duplicates", *SCHEMAS["duplicates"].names)
    group = table["group"].to_numpy()
    groups, first, sizes = np.unique(group, return_index=True, return_counts=True)
    leak, conflict = (table[name].to_numpy()[first] for name in ("leak", "label_conflict"))
    kept = np.lexsort((groups, ~conflict, ~leak))[: limits.listing]
    shown = np.concatenate([np.empty(0, dtype=np.int64), *_members(first[kept], sizes[kept], limits.members)])
    near = np.bincount(np.searchsorted(groups, group), weights=~table["exact"].to_numpy(), minlength=len(groups))
    near -= ~table["exact"].to_numpy()[first]  # the first of a group is not compared with itself
    members = groupby(table.take(shown).to_pylist(), key=lambda row: row["group"])
    rows = [
        _group(list(found), int(near[place] == 0), int(sizes[place]), book)
        for place, (_, found) in zip(kept.tolist(), members, strict=True)
    ]
    return Section(rows=rows, total=len(groups), pictures=[[member[0] for member in row[4]] for row in rows])


def _members(first: np.ndarray[Any, Any], sizes: np.ndarray[Any, Any], most: int) -> list[np.ndarray[Any, Any]]:
    return [
        np.arange(start, start + min(size, most)) for start, size in zip(first.tolist(), sizes.tolist(), strict=True)
    ]


def _group(members: Sequence[Row], exact: int, size: int, book: SampleBook) -> list[Any]:
    shown = [
        [book.sample(row["split"], row["sample_id"], row["label"]), number(row["similarity"]), int(row["exact"])]
        for row in members
    ]
    first = members[0]
    return [first["group"], int(first["leak"]), int(first["label_conflict"]), exact, shown, size]
