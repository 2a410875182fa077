"""Results in the object store: the Parquet schemas, and MANIFEST.json, which is written last and names them."""

from __future__ import annotations

import pyarrow as pa

from services.influence.spec import Frozen

MANIFEST_NAME = "MANIFEST.json"

RANKING = pa.schema(
    [
        # `all` first (every sample), then the queries in their order (top_k from each end); within a query by rank.
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("rank", pa.int64(), nullable=False),
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("score", pa.float64(), nullable=False),
    ]
)

PAIRS = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("neighbor_id", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("neighbor_label", pa.string(), nullable=False),
        pa.field("distance", pa.float64(), nullable=False),
    ]
)

RELABEL = pa.schema(
    [
        pa.field("rank", pa.int64(), nullable=False),
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("suggested_label", pa.string(), nullable=False),
        pa.field("suggested_probability", pa.float64(), nullable=False),
        pa.field("label_probability", pa.float64(), nullable=False),
        pa.field("score", pa.float64(), nullable=False),
        pa.field("neighbor_ids", pa.list_(pa.string()), nullable=False),
        pa.field("neighbor_labels", pa.list_(pa.string()), nullable=False),
        pa.field("neighbor_distances", pa.list_(pa.float64()), nullable=False),
    ]
)

QUARANTINE = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
    ]
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
