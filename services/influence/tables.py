"""Results in the object store: the Parquet schemas, and MANIFEST.json, which is written last and names them."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from services.influence.spec import Frozen

MANIFEST_NAME = "MANIFEST.json"


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


class TableEntry(Frozen):
    """A table in MANIFEST.json; `file` is relative to it."""

    file: str
    sha256: str
    rows: int
    bytes: int


class ResultManifest(Frozen):
    """MANIFEST.json: without it there is no result."""

    schema_version: int = 1
    name: str
    uid: str
    attempt: int
    kind: str
    tables: dict[str, TableEntry]
    figures: dict[str, float]
    provenance: dict[str, str]
