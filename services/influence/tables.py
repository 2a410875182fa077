"""The Parquet schemas of the tables in a result. What names them, MANIFEST.json, is in result_manifest.py."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

# Kept apart from this file so that the control plane can read a manifest without pyarrow in memory.
from services.influence.result_manifest import MANIFEST_NAME, ResultManifest, TableEntry

__all__ = ["MANIFEST_NAME", "PAIRS", "QUARANTINE", "RANKING", "RELABEL", "SCHEMAS", "ResultManifest", "TableEntry"]


def _schema(*columns: tuple[str, pa.DataType]) -> pa.Schema:
    fields: list[pa.Field[Any]] = [pa.field(name, kind, nullable=False) for name, kind in columns]
    return pa.schema(fields)


RANKING = _schema(
    # `all` first (every sample), then the queries in their order (top_k from each end); within a query by rank.
    ("query_id", pa.string()),
    ("rank", pa.int64()),
    ("sample_id", pa.string()),
    ("label", pa.string()),
    ("score", pa.float64()),
)

PAIRS = _schema(
    ("query_id", pa.string()),
    ("kind", pa.string()),
    ("sample_id", pa.string()),
    ("neighbor_id", pa.string()),
    ("label", pa.string()),
    ("neighbor_label", pa.string()),
    ("distance", pa.float64()),
)

RELABEL = _schema(
    ("rank", pa.int64()),
    ("sample_id", pa.string()),
    ("label", pa.string()),
    ("suggested_label", pa.string()),
    ("suggested_probability", pa.float64()),
    ("label_probability", pa.float64()),
    ("score", pa.float64()),
    ("neighbor_ids", pa.list_(pa.string())),
    ("neighbor_labels", pa.list_(pa.string())),
    ("neighbor_distances", pa.list_(pa.float64())),
)

QUARANTINE = _schema(
    ("sample_id", pa.string()),
    ("uri", pa.string()),
    ("split", pa.string()),
    ("reason", pa.string()),
    ("message", pa.string()),
)

SCHEMAS: dict[str, pa.Schema] = {"ranking": RANKING, "pairs": PAIRS, "relabel": RELABEL, "quarantine": QUARANTINE}
"""By table name; the file is `<name>.parquet`."""
