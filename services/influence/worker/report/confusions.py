"""Confusion classes: their pairs, and the training samples that are behind them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from services.influence.worker.report.limits import RowLimits
from services.influence.worker.report.report_tables import ReportTables, Row
from services.influence.worker.report.sample_book import SampleBook
from services.influence.worker.report.section import Section, number

Runs = Mapping[str, range]
"""Rows of a table by query; those of a query stand together."""

FIRST_PAIRS, FIRST_RANKED = 3, 6
"""Of these the pictures are read first."""


def confusion_classes(tables: ReportTables, book: SampleBook, limits: RowLimits) -> Section:
    """A row a class, the most confusions first."""
    classes = tables.head("confusion_classes", limits.classes)
    ranking = tables.columns("ranking", "query_id", "rank", "sample_id", "label", "score")
    pairs = tables.columns("pairs", "query_id", "sample_id", "neighbor_id", "label", "neighbor_label", "distance")
    ranking_runs, pair_runs = query_runs(ranking["query_id"]), query_runs(pairs["query_id"])
    rows = []
    for each in classes:
        pair_run = pair_runs.get(each["query_id"], range(0))
        ranked_run = ranking_runs.get(each["query_id"], range(0))
        rows.append(
            [
                book.label(each["label"]),
                each["samples"],
                each["confusions"],
                number(each["share"]),
                book.label(each["top_label"]),
                each["top_count"],
                number(each["mean_distance"]),
                each["harmful_samples"],
                [_pair(row, book) for row in _rows(pairs, pair_run[: limits.pairs])],
                len(pair_run),
                [_ranked(row, book) for row in _rows(ranking, ranked_run[: limits.ranked]) if row["score"] > 0],
                [_ranked(row, book) for row in _rows(ranking, ranked_run[-limits.ranked :])[::-1] if row["score"] < 0],
            ]
        )
    return Section(rows=rows, total=tables.count("confusion_classes"), pictures=[_first_pictures(row) for row in rows])


def query_runs(query_ids: pa.ChunkedArray[Any]) -> Runs:
    """Where the rows of each query are."""
    if not len(query_ids):
        return {}
    encoded = query_ids.combine_chunks().dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    stops = np.append(starts[1:], len(codes))
    names = encoded.dictionary.to_pylist()
    return {
        str(names[codes[start]]): range(start, stop)
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
    }


def _rows(table: pa.Table, run: range) -> list[Row]:
    return table.slice(run.start, len(run)).to_pylist()


def _pair(row: Row, book: SampleBook) -> list[Any]:
    return [
        book.sample("test", row["sample_id"], row["label"]),
        book.sample("test", row["neighbor_id"], row["neighbor_label"]),
        number(row["distance"]),
    ]


def _ranked(row: Row, book: SampleBook) -> list[Any]:
    return [book.sample("train", row["sample_id"], row["label"]), row["rank"], number(row["score"], 4)]


def _first_pictures(row: list[Any]) -> list[int]:
    pairs, harmful, helpful = row[8], row[10], row[11]
    ranked = [*harmful[:FIRST_RANKED], *helpful[:FIRST_RANKED]]
    return [place for pair in pairs[:FIRST_PAIRS] for place in pair[:2]] + [entry[0] for entry in ranked]
