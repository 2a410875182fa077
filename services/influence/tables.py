"""The Parquet schemas of the tables in a result. What names them, MANIFEST.json, is in result_manifest.py."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from eif_engine.audit_tables import AUDIT_SCHEMAS

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

EXPLANATIONS = _schema(
    # Pairs that were explained, in the order asked for.
    ("sample_id", pa.string()),
    ("neighbor_id", pa.string()),
    ("label", pa.string()),
    ("neighbor_label", pa.string()),
    ("similarity", pa.float64()),  # cosine of the two embeddings
    ("matched_similarity", pa.float64()),  # of the matching: its parts sum to it
    ("rows", pa.int64()),  # of the grid of parts
    ("columns", pa.int64()),
    ("picture", pa.string()),  # file among the results
    ("group_shares", pa.list_(pa.float64())),  # share of each attention group; empty without groups
)

PARTS = _schema(
    # Part-to-part contributions of each explained pair, the largest first; those below 1e-6 of the sum are left out.
    ("sample_id", pa.string()),
    ("neighbor_id", pa.string()),
    ("part", pa.int64()),  # cell of the first image: row * columns + column
    ("neighbor_part", pa.int64()),
    ("flow", pa.float64()),  # all flows of a pair sum to 1
    ("similarity", pa.float64()),  # of the two parts
    ("contribution", pa.float64()),  # flow * similarity
)

SCHEMAS: dict[str, pa.Schema] = {
    "ranking": RANKING,
    "pairs": PAIRS,
    "relabel": RELABEL,
    "quarantine": QUARANTINE,
    "explanations": EXPLANATIONS,
    "parts": PARTS,
    **AUDIT_SCHEMAS,
}
"""By table name; the file is `<name>.parquet`."""
