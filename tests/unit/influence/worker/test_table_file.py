from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from services.influence.tables import PAIRS, QUARANTINE, RANKING
from services.influence.worker import table_file
from services.influence.worker.quarantine import Quarantine
from services.influence.worker.table_file import TableFile, write_quarantine


def block(query: str, count: int) -> dict[str, Any]:
    return {
        "query_id": [query] * count,
        "rank": np.arange(1, count + 1),
        "sample_id": [f"s{number}" for number in range(count)],
        "label": ["x"] * count,
        "score": np.linspace(1, -1, count),
    }


def write(folder: Path, *sizes: int) -> TableFile:
    folder.mkdir(exist_ok=True)
    with TableFile("ranking", folder) as table:
        for number, size in enumerate(sizes):
            table.write(block(f"q{number}", size))
    return table


def groups(table: TableFile) -> list[int]:
    metadata = pq.ParquetFile(table.path).metadata
    return [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a", 3, 4), write(tmp_path / "b", 3, 4)
    assert first.path.read_bytes() == second.path.read_bytes()
    assert first.entry() == second.entry()
    assert first.entry().rows == 7
    assert first.entry().bytes == first.path.stat().st_size


def test_rows_and_schema_come_back(tmp_path: Path) -> None:
    table = pq.read_table(write(tmp_path, 2, 1).path)
    assert table.schema == RANKING
    assert table.column("query_id").to_pylist() == ["q0", "q0", "q1"]
    assert table.column("score").to_pylist() == [1.0, -1.0, 1.0]


def test_row_groups_are_bounded_and_keep_queries_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_file, "ROW_GROUP_ROWS", 10)
    assert groups(write(tmp_path, 4, 4, 4, 4)) == [8, 8]
    assert groups(write(tmp_path, 25)) == [10, 10, 5]


def test_a_group_can_be_ended(tmp_path: Path) -> None:
    with TableFile("ranking", tmp_path) as table:
        table.write(block("all", 3))
        table.end_group()
        table.write(block("q", 2))
    assert groups(table) == [3, 2]


def test_a_table_without_rows_has_its_schema(tmp_path: Path) -> None:
    with TableFile("pairs", tmp_path) as table:
        pass
    assert pq.read_table(table.path).schema == PAIRS
    assert table.entry().rows == 0
    empty = write_quarantine(tmp_path, Quarantine(0.1))
    assert pq.read_table(empty.path).schema == QUARANTINE
