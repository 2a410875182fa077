"""Labels that look wrong, with the evidence; test labels, and the confusions set aside because of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from services.influence.worker.report.limits import RowLimits
from services.influence.worker.report.report_tables import ReportTables, Row
from services.influence.worker.report.sample_book import NOBODY, SampleBook
from services.influence.worker.report.section import Section, number, probability

UNFLAGGED = 100
"""The most doubtful samples that were not flagged, shown after those that were."""
NEIGHBORS = 5


def label_issues(tables: ReportTables, book: SampleBook, limits: RowLimits) -> Section:
    """Training samples by doubt: all that are flagged, and the next ones."""
    flagged = int(pc.sum(tables.columns("issues", "flagged")["flagged"]).as_py() or 0)
    ladders = part_ladders(tables)
    found = tables.head("issues", min(limits.issues, flagged + UNFLAGGED))
    rows = [_issue(row, book, ladders) for row in found]
    pictures = [[row[0], *row[8]] for row in rows]
    return Section(rows=rows, total=tables.count("issues"), pictures=pictures)


def part_ladders(tables: ReportTables) -> Mapping[str, NDArray[np.float64]]:
    """Scores of every training sample by part of the evidence, ascending."""
    table = tables.columns("issues", "part_names", "part_scores")
    names = pa.table({"name": pc.list_flatten(table["part_names"])})["name"].combine_chunks().dictionary_encode()
    codes = names.indices.to_numpy(zero_copy_only=False)
    scores = pc.list_flatten(table["part_scores"]).to_numpy()
    return {str(name): np.sort(scores[codes == code]) for code, name in enumerate(names.dictionary.to_pylist())}


def share_above(ladder: NDArray[np.float64], score: float) -> float:
    """Share of the samples whose score is at least this one: how far up it stands, in (0, 1]."""
    return float(len(ladder) - np.searchsorted(ladder, score, side="left")) / max(1, len(ladder))


def _issue(row: Row, book: SampleBook, ladders: Mapping[str, NDArray[np.float64]]) -> list[Any]:
    neighbors = list(zip(row["neighbor_ids"], row["neighbor_labels"], strict=True))[:NEIGHBORS]
    parts = zip(row["part_names"], row["part_scores"], strict=True)
    return [
        book.sample("train", row["sample_id"], row["label"]),
        probability(row["issue_probability"]),
        2 if row["reviewed"] else int(row["flagged"]),
        row["rank"],
        book.label(row["suggested_label"]),
        number(row["suggested_probability"]),
        book.label(row["alternative_label"]),
        number(row["alternative_probability"]),
        [book.sample("train", sample_id, label) for sample_id, label in neighbors],
        [[name, number(score, 4), number(share_above(ladders[name], score), 3)] for name, score in parts],
    ]


def doubtful_test_labels(tables: ReportTables, book: SampleBook, limits: RowLimits) -> Section:
    """Test samples whose label looks wrong."""
    rows: list[list[Any]] = [
        [
            book.sample("test", row["sample_id"], row["label"]),
            probability(row["issue_probability"]),
            book.label(row["suggested_label"]),
            number(row["suggested_probability"]),
        ]
        for row in tables.head("test_issues", limits.test_issues)
    ]
    return Section(rows=rows, total=tables.count("test_issues"), pictures=[[row[0]] for row in rows])


def set_aside(tables: ReportTables, book: SampleBook, limits: RowLimits) -> Section:
    """Confusions that blame no training sample, because a test label itself looks wrong."""
    places = pc.indices_nonzero(tables.columns("confusions", "set_aside")["set_aside"])
    columns = ("sample_id", "neighbor_id", "label", "neighbor_label", "distance")
    suspects = ("suspect_id", "suspect_probability", "suspect_suggested_label")
    table = tables.columns("confusions", *columns, *suspects)
    rows = [_aside(row, book) for row in table.take(places[: limits.set_aside]).to_pylist()]
    return Section(rows=rows, total=len(places), pictures=[row[:2] for row in rows])


def _aside(row: Row, book: SampleBook) -> list[Any]:
    first = book.sample("test", row["sample_id"], row["label"])
    second = book.sample("test", row["neighbor_id"], row["neighbor_label"])
    suspect = {row["sample_id"]: first, row["neighbor_id"]: second}.get(row["suspect_id"], NOBODY)
    return [
        first,
        second,
        number(row["distance"]),
        suspect,
        probability(row["suspect_probability"]),
        book.label(row["suspect_suggested_label"]),
    ]
