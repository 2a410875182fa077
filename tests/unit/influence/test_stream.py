from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.influence import stream
from services.influence.results import Ranking
from services.influence.stored_table import StoredTable, TableCorrupt, convert
from services.influence.stream import RankedChunk, read_chunks
from services.influence.tables import RANKING, RELABEL, SCHEMAS

Row = tuple[str, int, str, str, float]


def ranking_rows(query_id: str, samples: int, keep: int | None = None) -> list[Row]:
    """A ranking of so many samples, of which `keep` are left at each end."""
    rows = [
        (query_id, rank, f"{query_id}/sample {rank} ü", f"label {rank % 3}", (samples / 2 - rank) / 8)
        for rank in range(1, samples + 1)
    ]
    return rows if keep is None or 2 * keep >= samples else rows[:keep] + rows[-keep:]


def store(folder: Path, rows: Sequence[Row], *, group_rows: int = 7) -> StoredTable:
    values = [dict(zip(RANKING.names, row, strict=True)) for row in rows]
    pq.write_table(pa.Table.from_pylist(values, schema=RANKING), folder / "table.parquet", row_group_size=group_rows)
    return convert("ranking", folder / "table.parquet", folder / "table.arrow", rows=len(rows))


def ranking_of(table: StoredTable, query_id: str) -> Ranking:
    return Ranking(query_id=query_id, table=table, span=table.spans[query_id])


def rows_of(chunks: Sequence[RankedChunk]) -> list[Row]:
    return [
        (chunk.query_id, chunk.first_rank + place, sample_id, label, score)
        for chunk in chunks
        for place, (sample_id, label, score) in enumerate(
            zip(chunk.sample_ids, chunk.labels, chunk.scores.tolist(), strict=True)
        )
    ]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> StoredTable:
    rows = [*ranking_rows("all", 23), *ranking_rows("q1", 23, keep=4), *ranking_rows("q2", 23, keep=50)]
    return store(tmp_path_factory.mktemp("table"), rows)


@given(
    st.sampled_from([("all", None), ("q1", 4), ("q2", 50)]),
    st.integers(0, 30),
    st.integers(0, 40),
    st.integers(1, 30),
    st.booleans(),
)
@settings(max_examples=300)
def test_chunks_hold_the_rows_asked_for_from_the_end_asked_for(
    table: StoredTable, query: tuple[str, int | None], start: int, end: int, chunk_rows: int, helpful_first: bool
) -> None:
    query_id, keep = query
    rows = ranking_rows(query_id, 23, keep)
    if helpful_first:
        rows = [(query_id, 24 - rank, sample_id, label, score) for _, rank, sample_id, label, score in rows[::-1]]
    ranking = ranking_of(table, query_id)
    chunks = list(read_chunks(ranking, start=start, end=end, chunk_rows=chunk_rows, helpful_first=helpful_first))
    assert rows_of(chunks) == rows[start:end]
    assert all(chunk.total_rows == len(rows) for chunk in chunks)
    assert all(0 < len(chunk.sample_ids) <= chunk_rows for chunk in chunks)
    assert [chunk.offset for chunk in chunks] == [start, *(chunk.position for chunk in chunks)][: len(chunks)]


def test_a_chunk_ends_at_a_gap_of_ranks(table: StoredTable) -> None:
    chunks = list(read_chunks(ranking_of(table, "q1"), start=0, end=99, chunk_rows=100, helpful_first=False))
    assert [(chunk.first_rank, len(chunk.sample_ids), chunk.offset) for chunk in chunks] == [(1, 4, 0), (20, 4, 4)]


def test_a_chunk_is_as_large_as_it_may_be_and_no_larger(tmp_path: Path) -> None:
    rows = [("all", rank, f"{rank} " + "x" * 50_000, "label", 0.0) for rank in range(1, 101)]
    table = store(tmp_path, rows)
    for helpful_first in (False, True):
        chunks = list(
            read_chunks(ranking_of(table, "all"), start=0, end=100, chunk_rows=100, helpful_first=helpful_first)
        )
        sizes = [sum(map(len, chunk.sample_ids)) for chunk in chunks]
        assert max(sizes) <= stream.MAX_CHUNK_BYTES
        assert min(sizes[:-1]) > stream.MAX_CHUNK_BYTES - 60_000
        assert len(rows_of(chunks)) == 100


def test_a_row_that_is_larger_comes_alone(tmp_path: Path) -> None:
    rows = [("all", rank, f"{rank} " + "x" * (3 << 20), "label", 0.0) for rank in (1, 2)]
    table = store(tmp_path, rows)
    chunks = list(read_chunks(ranking_of(table, "all"), start=0, end=9, chunk_rows=9, helpful_first=False))
    assert [len(chunk.sample_ids) for chunk in chunks] == [1, 1]


def test_a_relabel_ranking_has_suggestions(tmp_path: Path) -> None:
    columns: dict[str, list[Any]] = {
        "rank": [1, 2],
        "sample_id": ["a", "b"],
        "label": ["x", "y"],
        "suggested_label": ["y", "y"],
        "suggested_probability": [0.75, 1.0],
        "label_probability": [0.25, 1.0],
        "score": [0.75, 0.0],
        "neighbor_ids": [["b"], ["a"]],
        "neighbor_labels": [["y"], ["x"]],
        "neighbor_distances": [[0.5], [0.5]],
    }
    pq.write_table(pa.table(columns, schema=RELABEL), tmp_path / "t.parquet")
    table = convert("relabel", tmp_path / "t.parquet", tmp_path / "t.arrow", rows=2)
    assert table.spans == {}
    ranking = Ranking(query_id="", table=table, span=table.all_rows)
    (chunk,) = read_chunks(ranking, start=0, end=9, chunk_rows=9, helpful_first=True)
    assert (chunk.sample_ids, chunk.suggested_labels) == (["b", "a"], ["y", "y"])
    assert chunk.suggested_probabilities.tolist() == [1.0, 0.75]
    assert chunk.scores.tolist() == [0.0, 0.75]


class TestWhatIsCorrupt:
    def convert(self, folder: Path, table: pa.Table, *, rows: int) -> StoredTable:
        pq.write_table(table, folder / "t.parquet")
        return convert("ranking", folder / "t.parquet", folder / "t.arrow", rows=rows)

    def ranking(self, query_ids: Sequence[str]) -> pa.Table:
        rows = [
            {"query_id": query_id, "rank": rank, "sample_id": "s", "label": "l", "score": 0.0}
            for rank, query_id in enumerate(query_ids)
        ]
        return pa.Table.from_pylist(rows, schema=RANKING)

    def test_another_number_of_rows(self, tmp_path: Path) -> None:
        with pytest.raises(TableCorrupt, match=r"it has 2 rows, and MANIFEST\.json says 3"):
            self.convert(tmp_path, self.ranking(["a", "a"]), rows=3)

    def test_other_columns(self, tmp_path: Path) -> None:
        with pytest.raises(
            TableCorrupt, match="its columns are rank string, and should be query_id string, rank int64"
        ):
            self.convert(tmp_path, pa.table({"rank": ["x"]}), rows=1)

    def test_a_query_in_two_places(self, tmp_path: Path) -> None:
        with pytest.raises(TableCorrupt, match="the rows of query 'a' are in two places"):
            self.convert(tmp_path, self.ranking(["a", "b", "a"]), rows=3)

    @pytest.mark.parametrize("keep", [0, 10, 200])
    def test_a_file_that_is_no_parquet(self, tmp_path: Path, keep: int) -> None:
        pq.write_table(self.ranking(["a"] * 50), tmp_path / "t.parquet")
        data = (tmp_path / "t.parquet").read_bytes()
        (tmp_path / "t.parquet").write_bytes(data[:keep])
        with pytest.raises(TableCorrupt, match="it cannot be read"):
            convert("ranking", tmp_path / "t.parquet", tmp_path / "t.arrow", rows=50)


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(1, 9)), max_size=8, unique_by=lambda run: run[0]))
@settings(max_examples=40)
def test_the_rows_of_each_query_are_found(runs: list[tuple[str, int]]) -> None:
    import tempfile

    rows = [(query_id, rank, "s", "l", 0.0) for query_id, count in runs for rank in range(1, count + 1)]
    with tempfile.TemporaryDirectory() as folder:
        table = store(Path(folder), rows, group_rows=4)
        found = {
            query_id: table.read(span.start, span.count)["query_id"].to_pylist()
            for query_id, span in table.spans.items()
        }
    assert found == {query_id: [query_id] * count for query_id, count in runs}
    assert {"ranking", "pairs", "relabel", "quarantine"} <= set(SCHEMAS)
