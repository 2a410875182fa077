"""A Parquet file written as it comes, in row groups of bounded size; the same rows give the same bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from services.influence.tables import SCHEMAS, TableEntry
from services.influence.worker.quarantine import Quarantine

ROW_GROUP_ROWS = 65_536

Column = Sequence[Any] | NDArray[Any]


class TableFile:
    """One table of the result, on disk.

    Args:
        name: `ranking`, `pairs`, `relabel` or `quarantine`.
        folder: Where it is written, as `<name>.parquet`.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.path = folder / f"{name}.parquet"
        self.rows = 0
        self._schema = SCHEMAS[name]
        self._held: list[pa.Table] = []
        self._held_rows = 0
        self._writer = pq.ParquetWriter(self.path, self._schema, compression="zstd", store_schema=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._writer.close()

    def write(self, columns: Mapping[str, Column]) -> None:
        """Append rows that belong together, such as those of one query: a small block is never split between groups."""
        arrays = [_array(columns[field.name], field.type) for field in self._schema]
        block = pa.Table.from_arrays(arrays, schema=self._schema)
        if self._held_rows and self._held_rows + block.num_rows > ROW_GROUP_ROWS:
            self._flush()
        self._held.append(block)
        self._held_rows += block.num_rows
        if self._held_rows >= ROW_GROUP_ROWS:
            self._flush()

    def end_group(self) -> None:
        """Let the next rows begin a row group of their own."""
        self._flush()

    def entry(self) -> TableEntry:
        """Of MANIFEST.json. After the file was closed."""
        with self.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return TableEntry(file=self.path.name, sha256=digest, rows=self.rows, bytes=self.path.stat().st_size)

    def _flush(self) -> None:
        if self._held:
            self._writer.write_table(pa.concat_tables(self._held).combine_chunks(), row_group_size=ROW_GROUP_ROWS)
            self.rows += self._held_rows
        self._held, self._held_rows = [], 0


def _array(column: Column, kind: pa.DataType) -> pa.Array[Any]:
    return pa.array(np.asarray(column) if isinstance(column, np.ndarray) else list(column), type=kind)


def write_quarantine(folder: Path, quarantine: Quarantine) -> TableFile:
    """What could not be read, by split, in the order of the manifests."""
    with TableFile("quarantine", folder) as table:
        entries = list(quarantine.entries())
        table.write(
            {
                "sample_id": [entry.sample_id for _, entry in entries],
                "uri": [entry.uri for _, entry in entries],
                "split": [split for split, _ in entries],
                "reason": [entry.reason for _, entry in entries],
                "message": [entry.message for _, entry in entries],
            }
        )
    return table
