"""The tables `ranking` and `pairs` of a rank job, written query by query."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eif_engine.types import ALL_QUERIES, Query
from services.influence.worker.features import SplitFeatures
from services.influence.worker.influence import Scores
from services.influence.worker.table_file import ROW_GROUP_ROWS, TableFile


def write_ranking(
    folder: Path, scores: Scores, train: SplitFeatures, queries: Sequence[Query], *, check: Callable[[], None]
) -> TableFile:
    """`all` first, every sample; then both ends of each query."""
    with TableFile("ranking", folder) as table:
        for start in range(0, len(scores.order_N), ROW_GROUP_ROWS):
            check()
            rows = scores.order_N[start : start + ROW_GROUP_ROWS]
            ranks = np.arange(start + 1, start + 1 + len(rows))
            table.write(_block(ALL_QUERIES, ranks, rows, scores.total_N[rows], train))
        table.end_group()
        for place, query in enumerate(queries):
            check()
            rows = scores.rows_QK[place]
            table.write(_block(query.query_id, scores.ranks_K, rows, scores.scores_QK[place], train))
    return table


def write_pairs(folder: Path, test: SplitFeatures, queries: Sequence[Query]) -> TableFile:
    """Every pair of every query."""
    with TableFile("pairs", folder) as table:
        for query in queries:
            table.write(
                {
                    "query_id": [query.query_id] * len(query.pairs),
                    "kind": [query.kind.value] * len(query.pairs),
                    "sample_id": [test.sample_ids[pair.row] for pair in query.pairs],
                    "neighbor_id": [test.sample_ids[pair.neighbor] for pair in query.pairs],
                    "label": [test.labels[pair.row] for pair in query.pairs],
                    "neighbor_label": [test.labels[pair.neighbor] for pair in query.pairs],
                    "distance": [pair.distance for pair in query.pairs],
                }
            )
    return table


def _block(
    query_id: str,
    ranks: NDArray[np.int64],
    rows: NDArray[np.int64],
    scores: NDArray[np.float32],
    train: SplitFeatures,
) -> dict[str, Sequence[str] | NDArray[np.int64] | NDArray[np.float64]]:
    return {
        "query_id": [query_id] * len(rows),
        "rank": ranks,
        "sample_id": [train.sample_ids[row] for row in rows.tolist()],
        "label": [train.labels[row] for row in rows.tolist()],
        "score": scores.astype(np.float64),
    }
