"""Rows of results as cells by column."""

from __future__ import annotations

from typing import Any

from services.client.cli.formats import fields_of
from services.client.rows import RankedSample, Row
from services.client.specs import Table

COLUMNS: dict[Table, tuple[str, ...]] = {
    Table.RANKING: ("query_id", "rank", "sample_id", "label", "score", "effect"),
    Table.RELABEL: (
        "rank",
        "sample_id",
        "label",
        "suggested_label",
        "suggested_probability",
        "label_probability",
        "score",
        "neighbors",
    ),
    Table.PAIRS: ("query_id", "kind", "sample_id", "neighbor_id", "label", "neighbor_label", "distance"),
    Table.QUARANTINE: ("sample_id", "uri", "split", "reason", "message"),
}
TABLE_COLUMNS = COLUMNS | {Table.RELABEL: COLUMNS[Table.RELABEL][:-1]}
"""For people: without the neighbours, which are many."""
RELABEL_STREAM_COLUMNS = ("rank", "sample_id", "label", "score", "suggested_label", "suggested_probability")


def cells_of(row: Row) -> dict[str, Any]:
    """The cells of any row."""
    if not isinstance(row, RankedSample):
        return fields_of(row)
    return {  # written out: a ranking may have millions of rows, and the general way is ten times slower
        "query_id": row.query_id,
        "rank": row.rank,
        "sample_id": row.sample_id,
        "label": row.label,
        "score": row.score,
        "effect": row.effect,
        "suggested_label": row.suggested_label,
        "suggested_probability": row.suggested_probability,
    }
