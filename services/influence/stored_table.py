"""A result table on this machine, in a form in which any of its rows can be read without reading those before.

The only module of the control plane that needs pyarrow: it is imported with the first result that is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from services.influence.tables import SCHEMAS

_BATCH_ROWS = 65_536


class TableCorrupt(Exception):
    """The Parquet file is not the table that it should be."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """Consecutive rows of a table."""

    start: int
    count: int


class StoredTable:
    """Rows of a table, mapped into memory: what is not read takes none.

    Attributes:
        name: `ranking`, `pairs`, `relabel` or `quarantine`.
        size: Bytes on disk.
        spans: Where the rows of each query are, in tables that have queries.
    """

    def __init__(self, name: str, path: Path, spans: dict[str, Span]) -> None:
        self.name = name
        self.size = path.stat().st_size
        self.spans = spans
        self._table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @property
    def all_rows(self) -> Span:
        """Every row."""
        return Span(start=0, count=len(self))

    def read(self, start: int, count: int) -> pa.Table:
        """Rows in the order of the table; without a copy."""
        return self._table.slice(start, count)


def convert(name: str, parquet: Path, arrow: Path, *, rows: int) -> StoredTable:
    """Turn a Parquet file into a StoredTable, a piece at a time.

    Raises:
        TableCorrupt: It cannot be read, has other columns, another number of rows, or rows of a query in two places.
    """
    index = _QueryIndex()
    schema = SCHEMAS[name]
    try:
        with pq.ParquetFile(parquet) as file, pa.OSFile(str(arrow), "wb") as sink, pa.ipc.new_file(sink, schema) as out:
            _check_schema(file.schema_arrow, schema)
            for batch in file.iter_batches(_BATCH_ROWS):
                index.add(batch)
                out.write_batch(batch.cast(schema))
    except (pa.ArrowException, OSError) as error:
        if getattr(error, "errno", None) is not None:  # the disk's fault, not the file's
            raise
        raise TableCorrupt(f"it cannot be read: {error}") from error
    stored = StoredTable(name, arrow, index.spans)
    if len(stored) != rows:
        raise TableCorrupt(f"it has {len(stored)} rows, and MANIFEST.json says {rows}")
    return stored


def _check_schema(found: pa.Schema, wanted: pa.Schema) -> None:
    if [(field.name, field.type) for field in found] != [(field.name, field.type) for field in wanted]:
        raise TableCorrupt(f"its columns are {_columns(found)}, and should be {_columns(wanted)}")


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)


class _QueryIndex:
    """Where the rows of each query are."""

    def __init__(self) -> None:
        self.spans: dict[str, Span] = {}
        self._rows = 0
        self._last: str | None = None

    def add(self, batch: pa.RecordBatch) -> None:
        if "query_id" in batch.schema.names:
            for query_id, count in _runs(batch.column("query_id")):
                self._extend(query_id, count)

    def _extend(self, query_id: str, count: int) -> None:
        before = self.spans.get(query_id)
        if before is not None and query_id != self._last:
            raise TableCorrupt(f"the rows of query {query_id!r} are in two places")
        start = before.start if before else self._rows
        self._rows += count
        self._last = query_id
        self.spans[query_id] = Span(start=start, count=self._rows - start)


def _runs(column: pa.Array[Any]) -> Iterator[tuple[str, int]]:
    encoded = pc.call_function("run_end_encode", [column])
    start = 0
    for value, end in zip(encoded.values.to_pylist(), encoded.run_ends.to_pylist(), strict=True):
        yield value, end - start
        start = end
