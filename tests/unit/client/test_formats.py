from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from services.client.cli.formats import Format, to_json, write_rows
from services.client.cli.rows import COLUMNS, cells_of
from services.client.rows import QuarantinedSample, QueryPair, RankedSample, RelabelSuggestion, Row, Voter
from services.client.specs import Table

ROWS = [
    {"name": "a", "score": 0.123456789, "when": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "none": None, "count": 3},
    {"name": 'evil\x1b[2J,\n"x"', "score": -2.0, "when": None, "none": None, "count": 12345},
]
COLS = ("name", "score", "when", "none", "count")


def test_a_table_is_aligned_and_plain(capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(COLS, ROWS, Format.TABLE)
    assert capsys.readouterr().out.splitlines() == [
        "name                 score     when                  none  count",
        "a                    0.123457  2026-01-02 03:04:05Z        3",
        'evil\\x1b[2J,\\x0a"x"  -2                                    12345',
    ]


def test_wide_characters_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(("name", "n"), [{"name": "猫猫", "n": 1}, {"name": "cats", "n": 2}], Format.TABLE)
    assert capsys.readouterr().out.splitlines() == ["name  n", "猫猫  1", "cats  2"]


def test_json_lines_keep_every_character(capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(COLS, ROWS, Format.JSONL)
    out = capsys.readouterr().out
    assert out.isascii()
    assert "\x1b" not in out
    first, second = map(json.loads, out.splitlines())
    assert first == {"name": "a", "score": 0.123456789, "when": "2026-01-02T03:04:05Z", "none": None, "count": 3}
    assert second["name"] == ROWS[1]["name"]


def test_csv_can_be_read_back(capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(COLS, [*ROWS, {**ROWS[0], "name": 'comma, "quote"'}], Format.CSV)
    out = capsys.readouterr().out
    assert "\x1b" not in out
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["name"] for row in rows] == ["a", 'evil\\x1b[2J,\\x0a"x"', 'comma, "quote"']
    assert float(rows[0]["score"]) == 0.123456789
    assert rows[0]["when"] == "2026-01-02T03:04:05Z"


def test_no_rows(capsys: pytest.CaptureFixture[str]) -> None:
    outputs = {}
    for form in Format:
        write_rows(("a", "b"), [], form, empty="nothing there")
        outputs[form] = capsys.readouterr()
    assert (outputs[Format.TABLE].out, outputs[Format.TABLE].err) == ("", "nothing there\n")
    assert (outputs[Format.JSONL].out, outputs[Format.JSONL].err) == ("", "")
    assert (outputs[Format.CSV].out, outputs[Format.CSV].err) == ("a,b\n", "")


def test_rows_are_written_as_they_come(capsys: pytest.CaptureFixture[str]) -> None:
    written: list[str] = []

    def many() -> Iterator[dict[str, int]]:
        for number in range(1000):
            if number == 900:
                written.append(capsys.readouterr().out)
            yield {"n": number}

    for form in Format:
        write_rows(("n",), many(), form)
        capsys.readouterr()
    assert [len(text.splitlines()) for text in written] == [901, 900, 901]


@pytest.mark.parametrize(
    ("table", "row"),
    [
        (Table.RANKING, RankedSample(query_id="all", rank=1, sample_id="a", label="x", score=1.0)),
        (
            Table.RELABEL,
            RelabelSuggestion(
                rank=1,
                sample_id="a",
                label="x",
                suggested_label="y",
                suggested_probability=0.5,
                label_probability=0.25,
                score=0.75,
                neighbors=(Voter(sample_id="b", label="y", distance=0.1),),
            ),
        ),
        (
            Table.PAIRS,
            QueryPair(
                query_id="q",
                kind="confusion",
                sample_id="a",
                neighbor_id="b",
                label="x",
                neighbor_label="y",
                distance=0.1,
            ),
        ),
        (
            Table.QUARANTINE,
            QuarantinedSample(sample_id="a", uri="s3://b/a", split="train", reason="IMAGE_INVALID", message="cut"),
        ),
    ],
)
def test_every_table_has_its_columns(table: Table, row: Row, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(COLUMNS[table], [cells_of(row)], Format.JSONL)
    written = json.loads(capsys.readouterr().out)
    assert tuple(written) == COLUMNS[table]
    if table is Table.RELABEL:
        assert written["neighbors"] == [{"sample_id": "b", "label": "y", "distance": 0.1}]
    if table is Table.RANKING:
        assert written["effect"] == "harmful"


def test_json_refuses_what_it_cannot_say() -> None:
    with pytest.raises(TypeError, match="object cannot be written"):
        to_json({"x": object()})
