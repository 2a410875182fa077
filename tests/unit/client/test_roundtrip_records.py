"""Records of manifests: their bytes add up to the file, and a new label changes nothing else."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.client.roundtrip.csv_manifest import CsvManifest
from services.client.roundtrip.errors import RoundTripError
from services.client.roundtrip.jsonl_manifest import JsonlManifest
from services.client.roundtrip.records import TextManifest

COLUMNS = ("id", "uri", "label", "note")
cells = st.text(st.characters(codec="utf-8", exclude_characters="\r\x00"), max_size=8)
words = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=8)


def quoted(text: str, *, always: bool) -> str:
    needed = any(mark in text for mark in '",\n') or always
    return '"' + text.replace('"', '""') + '"' if needed else text


@st.composite
def csv_files(draw: st.DrawFn) -> str:
    """CSV by hand: quotes where they are needed and where they are not, both line breaks, blank lines."""
    columns = draw(st.permutations(COLUMNS))
    end = draw(st.sampled_from(["\n", "\r\n"]))
    lines = [",".join(columns)]
    for _ in range(draw(st.integers(0, 4))):
        row = {name: draw(words if name != "note" else cells) for name in columns}
        lines.append(",".join(quoted(row[name], always=draw(st.booleans())) for name in columns))
        lines += [""] * draw(st.integers(0, 1))
    return draw(st.sampled_from(["", "\ufeff"])) + end.join(lines) + draw(st.sampled_from(["", end]))


def spaced(draw: st.DrawFn, value: object) -> str:
    space = draw(st.sampled_from(["", " ", "\t"]))
    return json.dumps(value, ensure_ascii=draw(st.booleans()), separators=(f"{space},{space}", f"{space}:{space}"))


@st.composite
def jsonl_files(draw: st.DrawFn) -> str:
    """JSON Lines with nested values, labels as text and as numbers, and fields named like others inside values."""
    lines = []
    for _ in range(draw(st.integers(0, 4))):
        row: dict[str, Any] = {"id": draw(words), "uri": draw(words), "label": draw(words | st.integers(-99, 99))}
        row |= draw(st.dictionaries(cells, st.recursive(st.none() | cells, st.lists, max_leaves=3), max_size=2))
        row["nested"] = {"label": "inside", "id": [1, {"label": "deeper"}]}
        names = draw(st.permutations(list(row)))
        lines.append(spaced(draw, {name: row[name] for name in names}))
        lines += [" "] * draw(st.integers(0, 1))
    return "\n".join(lines) + draw(st.sampled_from(["", "\n"]))


def parse_csv(data: bytes) -> list[dict[str, Any]]:
    text = data.decode("utf-8-sig")
    return [row for row in csv.DictReader(io.StringIO(text, newline=""), strict=True) if row]


def parse_jsonl(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.decode().split("\n") if line.strip()]


Parse = Callable[[bytes], list[dict[str, Any]]]
FORMS: dict[str, tuple[Callable[[Path], TextManifest], Parse]] = {
    "csv": (CsvManifest, parse_csv),
    "jsonl": (JsonlManifest, parse_jsonl),
}


def check(form: str, text: str, new: str, which: int) -> None:
    """One record gets another label: by the standard library's parser, that is all that has changed."""
    make, parse = FORMS[form]
    data = text.encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"m.{form}")
        path.write_bytes(data)
        manifest = make(path)
        records = list(manifest.records())
        assert b"".join(record.raw for record in records) == data
        before = parse(data)
        found = [record for record in records if record.sample_id is not None]
        assert [(one.sample_id, one.uri, one.label) for one in found] == [
            (row["id"], row["uri"], str(row["label"])) for row in before
        ]
        if not found:
            return
        target = found[which % len(found)]
        changed = b"".join(manifest.relabelled(one, new) if one is target else one.raw for one in records)
        after = parse(changed)
        place = found.index(target)
        assert str(after[place]["label"]) == new
        assert after[:place] + after[place + 1 :] == before[:place] + before[place + 1 :]
        assert {**after[place], "label": None} == {**before[place], "label": None}


@settings(deadline=None)
@given(text=csv_files(), new=words, which=st.integers(0, 3))
def test_csv(text: str, new: str, which: int) -> None:
    check("csv", text, new, which)


@settings(deadline=None)
@given(text=jsonl_files(), new=words | st.integers(-9, 999).map(str), which=st.integers(0, 3))
def test_jsonl(text: str, new: str, which: int) -> None:
    check("jsonl", text, new, which)


@pytest.mark.parametrize(
    ("form", "before", "new", "after"),
    [
        ("csv", 'a,"b, c",cat,"x"', "dog", 'a,"b, c",dog,"x"'),
        ("csv", 'a,b,"cat",', "dog", 'a,b,"dog",'),
        ("csv", "a,b,cat,", 'd,"og', 'a,b,"d,""og",'),
        ("jsonl", '{"id":"a",  "uri":"b","label" : "cat" }', "dög", '{"id":"a",  "uri":"b","label" : "dög" }'),
        ("jsonl", '{"id":"a","uri":"b","label":7}', "12", '{"id":"a","uri":"b","label":12}'),
        ("jsonl", '{"id":"a","uri":"b","label":7}', "012", '{"id":"a","uri":"b","label":"012"}'),
        ("jsonl", '{"id":"a","uri":"b","label":"7"}', "12", '{"id":"a","uri":"b","label":"12"}'),
    ],
)
def test_only_the_value_changes(tmp_path: Path, form: str, before: str, new: str, after: str) -> None:
    path = tmp_path / f"m.{form}"
    header = "id,uri,label,note\n" if form == "csv" else ""
    path.write_text(header + before)
    manifest = FORMS[form][0](path)
    *_, record = manifest.records()
    assert manifest.relabelled(record, new).decode() == after


@pytest.mark.parametrize(
    ("form", "data", "said"),
    [
        ("csv", b"id,label\n", "has no column uri; is it a manifest?"),
        ("csv", b"id,uri,label,label\n", "has more than one column label"),
        ("csv", b"id,uri,label\na,b\n", "line 2: has 2 values, but the header names 3 columns"),
        ("csv", b'id,uri,label\na,"b"x,c\n', "line 2: is not valid CSV"),
        ("csv", b"id,uri,label\na,b,\xff\n", "line 2: is not UTF-8 at byte 5"),
        ("csv", b"id,uri,label\na,b,\n", "line 2: label is missing or no text"),
        ("csv", b"id,uri,label\n" + b"x" * (1 << 20) + b"\n", "line 2: is longer than 1,048,576 bytes"),
        ("jsonl", b"{}\n", "line 1: id is missing"),
        ("jsonl", b'{"id":"a","uri":"b","label":1.5}\n', "line 1: label is missing or no text"),
        ("jsonl", b'\n{"id":"a","id":"b"}\n', "line 2: is not valid JSON: a field is given twice"),
        ("jsonl", b"[]\n", "line 1: must be a JSON object"),
        ("jsonl", b"[" * 100_000, "line 1: is not valid JSON"),
    ],
)
def test_what_is_no_manifest(tmp_path: Path, form: str, data: bytes, said: str) -> None:
    path = tmp_path / f"m.{form}"
    path.write_bytes(data)
    with pytest.raises(RoundTripError) as caught:
        list(FORMS[form][0](path).records())
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("harm", ["none", "cut", "flipped"])
def test_gzip_that_is_damaged(tmp_path: Path, harm: str) -> None:
    path = tmp_path / "m.jsonl.gz"
    sound = gzip.compress(b'{"id": "a", "uri": "b", "label": "c"}\n' * 50)
    path.write_bytes({"none": b"plain", "cut": sound[:-20], "flipped": sound[:12] + b"\xff" + sound[13:]}[harm])
    with pytest.raises(RoundTripError, match="cannot be read as gzip"):
        list(JsonlManifest(path).records())
