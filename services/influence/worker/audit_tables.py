"""The tables of an audit as Parquet files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from eif_engine.audit_tables import AUDIT_SCHEMAS
from eif_engine.audit_types import Audit, Columns
from services.influence.worker.quarantine import Quarantine
from services.influence.worker.table_file import ROW_GROUP_ROWS, TableFile, write_quarantine


def write_audit_tables(
    folder: Path, audit: Audit, quarantine: Quarantine, *, check: Callable[[], None]
) -> list[TableFile]:
    """Every table of the audit, those of a rank job, and the quarantine; `check` is called between blocks."""
    written = [_by_query("ranking", folder, audit.ranking, check), _by_query("pairs", folder, audit.pairs, check)]
    for name in AUDIT_SCHEMAS:
        with TableFile(name, folder) as table:
            for block in _blocks(audit.tables[name]):
                check()
                table.write(block)
        written.append(table)
    return [*written, write_quarantine(folder, quarantine)]


def _by_query(name: str, folder: Path, queries: Mapping[str, Columns], check: Callable[[], None]) -> TableFile:
    with TableFile(name, folder) as table:
        for query_id, columns in queries.items():
            check()
            for block in _blocks(columns):
                table.write({"query_id": [query_id] * _rows(block), **block})
            if name == "ranking" and query_id == "all":
                table.end_group()
    return table


def _blocks(columns: Columns) -> list[Columns]:
    rows = _rows(columns)
    return [
        {name: values[start : start + ROW_GROUP_ROWS] for name, values in columns.items()}
        for start in range(0, rows, ROW_GROUP_ROWS)
    ]


def _rows(columns: Columns) -> int:
    return len(next(iter(columns.values())))
