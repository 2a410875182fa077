"""Files of decisions: what is read, what is refused and where, and that nothing is lost on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common import decisions as module
from services.common.decisions import (
    Decision,
    DecisionKind,
    DecisionsInvalid,
    newest,
    read_decisions,
    reviewed_labels,
    write_decisions,
)

KEEP, RELABEL, REMOVE = DecisionKind.KEEP, DecisionKind.RELABEL, DecisionKind.REMOVE
HEADER = "id,label,decision,new_label,note\n"
words = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Zl", "Zp")), min_size=1, max_size=12).filter(
    str.strip
)


@st.composite
def decisions(draw: st.DrawFn) -> Decision:
    kind = draw(st.sampled_from(DecisionKind))
    label = draw(words)
    new_label = draw(words.filter(lambda text: text != label)) if kind is RELABEL else ""
    note = draw(st.just("") | words)
    return Decision(sample_id=draw(words), label=label, kind=kind, new_label=new_label, note=note)


def decided(sample_id: str, label: str, kind: DecisionKind = KEEP, new_label: str = "", note: str = "") -> Decision:
    return Decision(sample_id=sample_id, label=label, kind=kind, new_label=new_label, note=note)


def csv(*rows: str) -> bytes:
    return (HEADER + "".join(f"{row}\n" for row in rows)).encode()


class TestWhatIsRead:
    def test_csv(self) -> None:
        data = csv('s1,cat,relabel,dog,"a, b"', "s2,cat,keep,,", "s3,7,remove,,blurred")
        assert read_decisions(data, "d.csv") == [
            decided("s1", "cat", RELABEL, "dog", "a, b"),
            decided("s2", "cat"),
            decided("s3", "7", REMOVE, note="blurred"),
        ]

    def test_json_lines(self) -> None:
        rows: list[dict[str, Any]] = [
            {"id": "s1", "label": 7, "decision": "relabel", "new_label": 8},
            {"id": "s2", "label": "cat", "decision": "Keep", "note": None, "other": {"deep": [1]}},
        ]
        data = "\n\n".join(map(json.dumps, rows)).encode()
        assert read_decisions(data, "D.JSONL") == [decided("s1", "7", RELABEL, "8"), decided("s2", "cat")]

    def test_rows_that_are_not_decided_are_passed_over(self) -> None:
        assert read_decisions(csv("s1,cat,,dog,", "s2,cat,keep,dog,", ""), "d.csv") == [decided("s2", "cat")]
        data = b'{"id": "s1", "label": "x"}\n{"id": "s2", "label": "x", "decision": ""}'
        assert read_decisions(data, "d.jsonl") == []

    def test_other_columns_and_orders(self) -> None:
        data = b"\xef\xbb\xbfdecision,probability,label,id\r\nkeep,0.5,cat,s1\r\n"
        assert read_decisions(data, "d.csv") == [decided("s1", "cat")]

    def test_a_file_by_its_path(self, tmp_path: Path) -> None:
        path = tmp_path / "d.csv"
        path.write_bytes(csv("s1,cat,keep,,"))
        assert read_decisions(path) == [decided("s1", "cat")]
        with pytest.raises(DecisionsInvalid, match=r"named\.csv, line 1"):
            read_decisions(b"id\n", "named.csv, line 1")
        with pytest.raises(FileNotFoundError):
            read_decisions(tmp_path / "none.csv")

    @settings(deadline=None)
    @given(st.lists(decisions(), max_size=8))
    def test_what_is_written_is_read(self, made: list[Decision]) -> None:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "d.csv")
            write_decisions(made, path)
            assert read_decisions(path) == made
            assert [one.name for one in Path(folder).iterdir()] == ["d.csv"]


class TestWhatTheyMean:
    def test_the_newest_counts(self) -> None:
        made = [decided("s1", "cat"), decided("s2", "cat"), decided("s1", "cat", REMOVE)]
        assert newest(made) == {"s1": made[2], "s2": made[1]}

    def test_labels_that_were_kept_or_given_are_reviewed(self) -> None:
        made = [
            decided("s1", "cat"),
            decided("s2", "cat", RELABEL, "dog"),
            decided("s3", "cat", REMOVE),
            decided("s4", "cat"),
            decided("s4", "cat", RELABEL, "cow"),
        ]
        assert reviewed_labels(made) == {("s1", "cat"), ("s2", "dog"), ("s4", "cow")}


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("data", "line", "field", "said"),
        [
            (csv("s1,cat,maybe,,"), 2, "decision", "decision is 'maybe'; it is keep, relabel or remove, or empty"),
            (csv("s1,cat,relabel,,"), 2, "new_label", "new_label is empty"),
            (csv("s1,cat,relabel,cat,"), 2, "new_label", "to leave it so, decide keep"),
            (csv(",cat,keep,,"), 2, "id", "id is empty"),
            (csv("s1, ,keep,,"), 2, "label", "label is empty"),
            (csv("s1,cat,keep,,", "s2,c\x1bt,keep,,"), 3, "label", "control character"),
            (csv('s1,cat,keep,,"a\nb"'), 2, "note", "control character"),
            (csv("s1,cat,keep,,x\u2028y"), 2, "note", "control character"),
            (csv(f"{'i' * 1025},cat,keep,,"), 2, "id", "1,025 characters, over the limit of 1,024"),
            (csv(f"s1,cat,keep,,{'n' * 4097}"), 2, "note", "over the limit of 4,096"),
            (csv("s1,cat,keep"), 2, "", "has 3 values, but the header names 5 columns"),
            (csv('s1,"cat"x,keep,,'), 2, "", "is not valid CSV"),
            (csv(f"s1,cat,keep,,{'n' * 70_000}"), 2, "", "longer than 65,536 bytes"),
            (HEADER.encode() + b"s1,\xff,keep,,\n", 2, "", "is not UTF-8 at byte 4"),
            (b"id,decision\n", 1, "label", "has no column label"),
            (b"id,label,label,decision\n", 1, "label", "has two columns named label"),
            (b"", 0, "", "is empty: it needs a header"),
        ],
    )
    def test_csv_names_line_and_field(self, data: bytes, line: int, field: str, said: str) -> None:
        with pytest.raises(DecisionsInvalid) as caught:
            read_decisions(data, "d.csv")
        assert (caught.value.line, caught.value.field) == (line, field)
        assert said in str(caught.value)
        assert str(caught.value).startswith("d.csv")

    @pytest.mark.parametrize(
        ("data", "said"),
        [
            (b"[1]", "line 1: must be a JSON object"),
            (b"\n{", "line 2: is not valid JSON"),
            (b"[" * 60_000, "line 1: is not valid JSON"),
            (b'{"id": 5, "label": "x", "decision": "keep"}', "line 1: id must be text, not 5"),
            (b'{"id": "a", "label": true, "decision": "keep"}', "line 1: label must be text, not True"),
            (b'{"id": "a", "decision": "keep"}', "line 1: label is missing"),
            (b'{"id": "a", "label": "x", "decision": 1}', "line 1: decision is 1"),
            (b'{"id": "\\ud800", "label": "x", "decision": "keep"}', "line 1: id has a control character"),
        ],
    )
    def test_json_names_the_line(self, data: bytes, said: str) -> None:
        with pytest.raises(DecisionsInvalid) as caught:
            read_decisions(data, "d.jsonl")
        assert said in str(caught.value)

    def test_other_formats(self) -> None:
        with pytest.raises(DecisionsInvalid, match=r"d\.txt: a file of decisions ends with \.csv or \.jsonl"):
            read_decisions(b"", "d.txt")

    def test_too_many_rows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "MAX_ROWS", 3)
        assert len(read_decisions(csv("a,x,keep,,", "b,x,keep,,"), "d.csv")) == 2
        with pytest.raises(DecisionsInvalid, match="line 4: is past the limit of 3 lines"):
            read_decisions(csv("a,x,keep,,", "b,x,keep,,", "c,x,keep,,"), "d.csv")

    @settings(deadline=None)
    @given(
        st.binary(max_size=200) | st.binary(max_size=200).map(HEADER.encode().__add__),
        st.sampled_from(["csv", "jsonl"]),
    )
    def test_any_bytes_are_read_or_refused(self, data: bytes, suffix: str) -> None:
        try:
            read = read_decisions(data, f"d.{suffix}")
        except DecisionsInvalid as error:
            assert str(error).startswith("d.")  # noqa: PT017  both ends are fine, nothing else is
        else:
            assert all(one.sample_id and one.label for one in read)
