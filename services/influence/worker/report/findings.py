"""Everything found, one row each, with what became of it since the previous audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.influence.worker.report.limits import RowLimits
from services.influence.worker.report.report_tables import ReportTables, Row
from services.influence.worker.report.sample_book import SampleBook
from services.influence.worker.report.section import Section, number
from services.influence.worker.report.source import Difference

_SPLITS = {
    "confusion": ("test", "test"),
    "label_issue": ("train", "train"),
    "test_label_issue": ("test", "test"),
    "leak": ("train", "test"),
    "duplicate": ("train", "train"),
}
COLUMNS = ("finding_id", "kind", "sample_id", "other_id", "label", "other_label", "severity", "summary")


def findings(tables: ReportTables, book: SampleBook, limits: RowLimits, difference: Difference | None) -> Section:
    """The most severe of each kind, then what is fixed."""
    kinds = tables.columns("findings", "kind")["kind"].to_numpy()
    shown = tables.columns("findings", *COLUMNS).take(fair_rows(kinds, limits.findings)).to_pylist()
    changes = {} if difference is None else {each.finding_id: each.change for each in difference.changes}
    fixed = [] if difference is None else [each for each in difference.changes if each.change == "fixed"]
    splits = _splits_of_duplicates(tables, [*shown, *map(vars, fixed)])
    rows = [_finding(row, changes.get(row["finding_id"], ""), book, splits) for row in shown]
    rows += [_finding(vars(each), "fixed", book, splits) for each in fixed[: limits.findings]]
    return Section(rows=rows, total=len(kinds) + len(fixed))


def fair_rows(kinds: np.ndarray[Any, Any], limit: int) -> NDArray[np.int64]:
    """Rows to show, in their order: as many of each kind as there are, and where they are too many, equally many."""
    places = {kind: np.flatnonzero(kinds == kind) for kind in sorted(set(kinds.tolist()))}
    kept, left = [np.empty(0, dtype=np.int64)], limit
    for done, rows in enumerate(sorted(places.values(), key=len)):
        share = min(len(rows), left // (len(places) - done))
        kept.append(rows[:share])
        left -= share
    return np.sort(np.concatenate(kept))


def _splits_of_duplicates(tables: ReportTables, rows: Sequence[Row]) -> Mapping[str, str]:
    pairs = [(row["sample_id"], row["other_id"]) for row in rows if row["kind"] == "label_conflict"]
    found = tables.matching("duplicates", "sample_id", [each for pair in pairs for each in pair], ("split",))
    return {row["sample_id"]: row["split"] for row in found}


def _finding(row: Row, change: str, book: SampleBook, splits: Mapping[str, str]) -> list[Any]:
    first, second = _split_pair(row, splits)
    return [
        row["kind"],
        change,
        number(row["severity"], 4),
        book.sample(first, row["sample_id"], row["label"]),
        book.sample(second, row["other_id"], row["other_label"]),
        book.label(row["label"]),
        book.label(row["other_label"]),
        row["summary"],
        row["finding_id"],
    ]


def _split_pair(row: Row, splits: Mapping[str, str]) -> tuple[str, str]:
    if row["kind"] == "outlier":
        split = str(row["finding_id"]).split(":", 2)[1]
        return split, split
    if row["kind"] == "label_conflict":
        return splits.get(row["sample_id"], "train"), splits.get(row["other_id"], "train")
    return _SPLITS.get(row["kind"], ("train", "train"))
