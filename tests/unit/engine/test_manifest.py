from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eif_engine.data.manifest import ManifestLimits, read_manifest
from eif_engine.errors import ManifestInvalid
from eif_engine.types import Sample

SHA = "0123456789abcdef" * 4
ROWS: list[dict[str, object]] = [
    {"id": "a", "uri": "s3://b/a.png", "label": "cat", "sha256": SHA, "annotator": "ann"},
    {"id": "b", "uri": "s3://b/x.tar", "label": "dög", "member": "d/b.png", "annotator": "bob"},
]

Write = Callable[[Path, list[dict[str, object]]], Path]


def write_jsonl(folder: Path, rows: list[dict[str, object]]) -> Path:
    path = folder / "m.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_gzip(folder: Path, rows: list[dict[str, object]]) -> Path:
    path = folder / "m.jsonl.gz"
    path.write_bytes(gzip.compress(write_jsonl(folder, rows).read_bytes()))
    return path


def write_csv(folder: Path, rows: list[dict[str, object]]) -> Path:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [",".join(columns), *(",".join(str(row.get(name, "")) for name in columns) for row in rows)]
    path = folder / "m.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_parquet(folder: Path, rows: list[dict[str, object]]) -> Path:
    columns = dict.fromkeys(name for row in rows for name in row)
    path = folder / "m.parquet"
    pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in columns}), path)
    return path


FORMATS = pytest.mark.parametrize("write", [write_jsonl, write_gzip, write_csv, write_parquet])


def fault(path: Path, *, limits: ManifestLimits | None = None, uri: str = "s3://bucket/m") -> ManifestInvalid:
    name = uri + "".join(path.suffixes)
    with pytest.raises(ManifestInvalid) as caught:
        list(read_manifest(path, uri=name, limits=limits or ManifestLimits()))
    assert caught.value.metadata["uri"] == name
    assert name in caught.value.message
    return caught.value


def jsonl_fault(tmp_path: Path, *rows: dict[str, object] | str) -> ManifestInvalid:
    path = tmp_path / "m.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return fault(path)


GOOD: dict[str, object] = {"id": "a", "uri": "s3://b/a", "label": "x"}


@FORMATS
def test_every_format_gives_the_same_samples(tmp_path: Path, write: Write) -> None:
    first, second = read_manifest(write(tmp_path, ROWS))
    assert (first.sample_id, first.uri, first.label, first.sha256) == ("a", "s3://b/a.png", "cat", SHA)
    assert (first.member, first.extra["annotator"]) == (None, "ann")
    assert (second.sample_id, second.label, second.member, second.sha256) == ("b", "dög", "d/b.png", None)
    assert [first.line, second.line] == ([2, 3] if write is write_csv else [1, 2])


@FORMATS
def test_integer_labels_become_decimal_text(tmp_path: Path, write: Write) -> None:
    rows: list[dict[str, object]] = [{**GOOD, "label": 7}, {**GOOD, "id": "b", "label": -12}]
    assert [sample.label for sample in read_manifest(write(tmp_path, rows))] == ["7", "-12"]


@FORMATS
def test_a_duplicate_id_names_both_lines(tmp_path: Path, write: Write) -> None:
    rows = [GOOD, {**GOOD, "id": "b"}, {**GOOD, "uri": "s3://b/other"}]
    error = fault(write(tmp_path, rows))
    first, again = (2, 4) if write is write_csv else (1, 3)
    assert f"line {again}: id 'a' was already used in line {first}" in error.message
    assert error.metadata == {**error.metadata, "line": str(again), "first_line": str(first), "field": "id"}


@FORMATS
@pytest.mark.parametrize("field", ["id", "uri", "label"])
def test_a_missing_column_is_named(tmp_path: Path, write: Write, field: str) -> None:
    error = fault(write(tmp_path, [{name: value for name, value in GOOD.items() if name != field}]))
    assert error.metadata["field"] == field
    assert repr(field) in error.message or f"{field} is missing" in error.message


@FORMATS
@pytest.mark.parametrize("field", ["id", "uri", "label"])
@pytest.mark.parametrize("value", ["", "  "])
def test_an_empty_value_names_line_and_field(tmp_path: Path, write: Write, field: str, value: str) -> None:
    error = fault(write(tmp_path, [GOOD, {**GOOD, "id": "b", field: value}]))
    assert error.metadata == {**error.metadata, "line": "3" if write is write_csv else "2", "field": field}
    assert f"{field} is empty" in error.message


@FORMATS
def test_a_manifest_without_rows_is_empty(tmp_path: Path, write: Write) -> None:
    path = write(tmp_path, [GOOD])
    if write is write_parquet:
        pq.write_table(pq.read_table(path).slice(0, 0), path)
    elif write is write_csv:
        path.write_text("id,uri,label\n", encoding="utf-8")
    else:
        path.write_bytes(gzip.compress(b"\n\n") if write is write_gzip else b"\n\n")
    assert "is empty" in fault(path).message


@pytest.mark.parametrize("name", ["m.csv", "m.jsonl"])
def test_a_file_of_no_bytes_is_empty(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    assert "is empty" in fault(tmp_path / name).message


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("label", 1.5, "label must be text or an integer, not 1.5 (float)"),
        ("label", True, "label must be text or an integer, not True (bool)"),
        ("label", None, "label is missing"),
        ("label", ["x"], "label must be text or an integer"),
        ("id", 7, "id must be text, not 7 (int)"),
        ("id", "a\x00b", "id has a control character"),
        ("id", "a\nb", "id has a control character"),
        ("id", "\ud800", "id has a control character"),
        ("id", "x" * 1025, "id has 1,025 characters"),
        ("uri", "s3://b/a\r\nHost: x", "uri has a control character"),
        ("uri", {"a": 1}, "uri must be text"),
        ("label", "x\x1b[2J", "label has a control character"),
        ("member", "../../secret.txt", "member must be the name of a file inside the tar"),
        ("member", "/abs.png", "member must be the name of a file inside the tar"),
        ("member", "a\\..\\b.png", "member must be the name of a file inside the tar"),
        ("member", "folder/", "member must be the name of a file inside the tar"),
        ("member", 3, "member must be text"),
        ("sha256", "abc", "sha256 must be 64 hexadecimal digits, not 'abc'"),
        ("sha256", "g" * 64, "sha256 must be 64 hexadecimal digits"),
        ("sha256", 5, "sha256 must be 64 hexadecimal digits"),
    ],
)
def test_a_bad_value_names_line_and_field(tmp_path: Path, field: str, value: object, says: str) -> None:
    error = jsonl_fault(tmp_path, GOOD, {**GOOD, "id": "b", field: value})
    assert says in error.message
    assert "line 2" in error.message
    assert error.metadata == {**error.metadata, "line": "2", "field": field}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"id": "b", ', "not valid JSON"),
        ("[1, 2]", "must be a JSON object, not list"),
        ('{"id": "b", "uri": "u", "label": NaN}', "NaN is not JSON"),
        ('{"id": "b", "id": "c", "uri": "u", "label": "x"}', "field 'id' is given twice"),
        ("[" * 100_000, "nested too deeply"),
        ('{"id": "b", "uri": "u", "label": ' + "9" * 5000 + "}", "not valid JSON"),
        (json.dumps({f"c{i}": i for i in range(300)}), "300 fields, over the limit of 256"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, says: str) -> None:
    error = jsonl_fault(tmp_path, GOOD, line)
    assert "line 2" in error.message
    assert says in error.message
    assert error.metadata["line"] == "2"


def test_what_came_before_a_bad_line_was_yielded(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps(GOOD) + "\nnonsense\n", encoding="utf-8")
    samples = read_manifest(path)
    assert next(samples).sample_id == "a"
    with pytest.raises(ManifestInvalid):
        next(samples)


def test_text_that_is_not_utf8_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b"\n" + '{"id": "é"'.encode("latin-1"))
    error = fault(path)
    assert "line 2: is not UTF-8" in error.message


def test_utf16_is_refused_with_advice(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("id,uri,label\na,u,x\n", encoding="utf-16")
    assert "save the file as UTF-8" in fault(tmp_path / "m.csv").message


@pytest.mark.parametrize("name", ["m.csv", "m.jsonl"])
def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path, name: str) -> None:
    text = "id,uri,label\na,u,x\n" if name.endswith("csv") else json.dumps({"id": "a", "uri": "u", "label": "x"})
    (tmp_path / name).write_text(text, encoding="utf-8-sig")
    assert next(read_manifest(tmp_path / name)).sample_id == "a"


@pytest.mark.parametrize("name", ["m.csv", "m.jsonl", "m.jsonl.gz"])
def test_a_line_over_the_limit_is_never_held_whole(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    bomb = b'{"id": "' + b"a" * (64 * 2**20)
    path.write_bytes(gzip.compress(bomb, 1) if name.endswith("gz") else bomb)
    tracemalloc.start()
    error = fault(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "line 1: is longer than 1,048,576 bytes" in error.message
    assert peak < 8 * 2**20


def test_a_gzip_bomb_of_short_lines_stops_at_the_limits(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl.gz"
    path.write_bytes(gzip.compress(b" \n" * 1_000_000))
    assert "over the limit of 1,000 lines" in fault(path, limits=ManifestLimits(max_rows=1000)).message
    assert "past the limit of 5,000 bytes (decompressed)" in fault(path, limits=ManifestLimits(max_bytes=5000)).message


def test_damaged_gzip_names_the_line(tmp_path: Path) -> None:
    whole = write_gzip(tmp_path, ROWS).read_bytes()
    path = tmp_path / "m.jsonl.gz"
    path.write_bytes(whole[:-12])
    assert "cannot be read" in fault(path).message
    path.write_bytes(b"not gzip at all")
    assert "line 1: cannot be read" in fault(path).message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("id,uri,label\na,u\n", "line 2: has 2 values, but the header names 3 columns"),
        ("id,uri,label\na,u,x,y\n", "line 2: has 4 values, but the header names 3 columns"),
        ("id,uri,label,id\na,u,x,b\n", "two columns named 'id'"),
        ('id,uri,label\n"a,u,x\n', "not valid CSV"),
        ('id,uri,label\n"a"b,u,x\n', "line 2: is not valid CSV"),
        ("id,uri,label\na,u,x\nb," + "u" * 200_000 + ",x\n", "line 3: is not valid CSV: field larger"),
    ],
)
def test_a_bad_csv_names_the_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "m.csv").write_text(text, encoding="utf-8")
    assert says in fault(tmp_path / "m.csv").message


def test_csv_rows_are_named_by_the_line_they_start_on(tmp_path: Path) -> None:
    text = 'id,uri,label,note\na,u,x,"two\nlines"\nb,u,,short\n'
    (tmp_path / "m.csv").write_text(text, encoding="utf-8")
    assert "line 4: label is empty" in fault(tmp_path / "m.csv").message


@pytest.mark.parametrize(
    ("column", "values", "says"),
    [
        ("id", [1, 2], "column 'id' must be text, not int64"),
        ("label", [1.0, 2.0], "column 'label' must be text or an integer, not double"),
        ("member", [1, 2], "column 'member' must be text"),
        ("label", ["x", None], "line 2: label is missing"),
    ],
)
def test_parquet_columns_of_another_type_are_named(
    tmp_path: Path, column: str, values: list[object], says: str
) -> None:
    table = {"id": ["a", "b"], "uri": ["u", "u"], "label": ["x", "y"]} | {column: values}
    pq.write_table(pa.table(table), tmp_path / "m.parquet")
    assert says in fault(tmp_path / "m.parquet").message


def test_damaged_parquet_is_named(tmp_path: Path) -> None:
    whole = write_parquet(tmp_path, ROWS).read_bytes()
    path = tmp_path / "m.parquet"
    for damaged in (whole[:-20], b"PAR1junkPAR1", b"", whole[:40] + bytes(60) + whole[100:]):
        path.write_bytes(damaged)
        assert "is not valid Parquet" in fault(path).message


def test_parquet_that_repeats_a_huge_value_is_refused_in_little_memory(tmp_path: Path) -> None:
    rows, huge = 100_000, pa.array(["x" * (2 * 2**20)])
    label = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), huge)
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table({"id": [str(i) for i in range(rows)], "uri": ["u"] * rows, "label": label}), path)
    assert path.stat().st_size < 8 * 2**20  # unfolded it is 200 GB
    error = fault(path)
    assert "a value of 2,097,152 bytes in column 'label', over the limit of 1,048,576" in error.message
    peak = pa.default_memory_pool().max_memory()
    assert peak is not None
    assert peak < 512 * 2**20


def test_parquet_over_the_row_limit_is_refused_before_reading(tmp_path: Path) -> None:
    path = write_parquet(tmp_path, ROWS)
    assert "has 2 rows, over the limit of 1" in fault(path, limits=ManifestLimits(max_rows=1)).message


def test_flat_columns_are_kept_as_text_and_nested_or_binary_ones_left_out(tmp_path: Path) -> None:
    table = pa.table(
        {
            "id": pa.array(["a", "b"], pa.large_string()),
            "uri": ["u", "u"],
            "label": pa.array(["x", "x"]).dictionary_encode(),
            "score": [0.5, None],
            "taken": [date(2026, 1, 2), None],
            "tags": [["p", "q"], []],
            "thumbnail": [b"1", b"2"],
        }
    )
    pq.write_table(table, tmp_path / "m.parquet")
    first, second = read_manifest(tmp_path / "m.parquet")
    assert first == Sample(sample_id="a", uri="u", label="x", line=1, extra={"score": "0.5", "taken": "2026-01-02"})
    assert second.extra == {}


def test_an_upper_case_digest_is_the_same_digest(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path, [{**GOOD, "sha256": SHA.upper()}])
    assert next(read_manifest(path)).sha256 == SHA


def test_an_unknown_suffix_lists_the_known(tmp_path: Path) -> None:
    (tmp_path / "m.xlsx").touch()
    assert ".parquet, .jsonl, .jsonl.gz, .csv" in fault(tmp_path / "m.xlsx").message


def test_memory_does_not_grow_with_the_length_of_ids(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text("".join(json.dumps({**GOOD, "id": f"{i:01000d}"}) + "\n" for i in range(5000)), encoding="utf-8")
    tracemalloc.start()
    assert sum(1 for _ in read_manifest(path)) == 5000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5000 * 250 + 2**20


@given(st.binary(max_size=300))
def test_any_bytes_are_samples_or_a_reason(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    for name in ("m.jsonl", "m.jsonl.gz", "m.csv", "m.parquet"):
        (folder / name).write_bytes(data)
        with pytest.raises(ManifestInvalid):
            list(read_manifest(folder / name))
