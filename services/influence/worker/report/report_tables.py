"""The tables of an audit as a report reads them: from memory or from Parquet, only the columns and rows it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from services.influence.tables import SCHEMAS

Row = dict[str, Any]


class ReportTables:
    """Tables by name; one that is not there has no rows.

    Args:
        tables: Each in memory, or its Parquet file.
    """

    def __init__(self, tables: Mapping[str, pa.Table | Path]) -> None:
        self._tables = tables

    def count(self, name: str) -> int:
        """Rows of a table."""
        table = self._tables.get(name)
        if table is None:
            return 0
        return pq.read_metadata(table).num_rows if isinstance(table, Path) else table.num_rows

    def columns(self, name: str, *columns: str) -> pa.Table:
        """Some columns, every row."""
        table = self._tables.get(name)
        if table is None:
            table = SCHEMAS[name].empty_table()
        if isinstance(table, Path):
            return pq.read_table(table, columns=list(columns))
        return table.select(list(columns))

    def head(self, name: str, rows: int) -> list[Row]:
        """The first rows, whole."""
        table = self._tables.get(name)
        if table is None or rows < 1:
            return []
        if isinstance(table, Path):
            return _file_head(table, rows)
        return table.slice(0, rows).to_pylist()

    def tail(self, name: str, rows: int) -> list[Row]:
        """The last rows, whole, in their order."""
        table = self.columns(name, *SCHEMAS[name].names)
        return table.slice(max(0, table.num_rows - rows)).to_pylist()

    def matching(self, name: str, key: str, values: Sequence[str], columns: Sequence[str]) -> list[Row]:
        """Some columns of the rows whose `key` is among the values, in the order of the table."""
        table = self.columns(name, key, *columns)
        found = pc.is_in(table[key], value_set=pa.array(values, type=pa.string()))
        return table.filter(found).to_pylist()


def _file_head(path: Path, rows: int) -> list[Row]:
    found: list[Row] = []
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=min(rows, 8192)):
            found += batch.slice(0, rows - len(found)).to_pylist()
            if len(found) >= rows:
                break
    return found
