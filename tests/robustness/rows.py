"""A ranking that scripted jobs publish, and what a client must have read when it has read all of it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from eif.influence.v1 import results_pb2

from services.influence.tables import SCHEMAS
from tests.servers import Step

Columns = dict[str, list[Any]]


def ranking(folder: Path, count: int) -> tuple[Step, str]:
    """The step that succeeds with a ranking of so many rows, and the digest of these."""
    rows = [(f"sample-{row:05d}", f"class-{row % 7}", 1.0 - row / count) for row in range(count)]
    columns: Columns = {
        "query_id": ["all"] * count,
        "rank": list(range(1, count + 1)),
        "sample_id": [sample_id for sample_id, _, _ in rows],
        "label": [label for _, label, _ in rows],
        "score": [score for _, _, score in rows],
    }
    tables, contents = {}, {"ranking": columns, "quarantine": Columns()}
    for name, values in contents.items():
        schema, path = SCHEMAS[name], folder / f"{name}.parquet"
        table = pa.table({field.name: values.get(field.name, []) for field in schema}, schema=schema)
        pq.write_table(table, path)
        tables[name] = {"path": str(path), "rows": table.num_rows}
    return {"do": "succeed", "tables": tables}, RowsDigest(rows).hexdigest()


class RowsDigest:
    """Digest of rows in their order, however they were cut into chunks."""

    def __init__(self, rows: list[tuple[str, str, float]] | None = None) -> None:
        self._digest = hashlib.sha256()
        self._add(rows or [])

    def add(self, chunk: results_pb2.RankedSamplesChunk) -> None:
        """The rows of the next chunk."""
        self._add(list(zip(chunk.sample_ids, chunk.labels, chunk.scores, strict=True)))

    def hexdigest(self) -> str:
        """Of all rows so far."""
        return self._digest.hexdigest()

    def _add(self, rows: list[tuple[str, str, float]]) -> None:
        self._digest.update("".join(f"{sample_id} {label} {score!r}\n" for sample_id, label, score in rows).encode())
