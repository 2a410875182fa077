"""Decisions applied to manifests: what was decided changes, and not a byte more."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.client.roundtrip.applying import apply_decisions, provenance_path, recall, remember
from services.client.roundtrip.errors import RoundTripError
from services.client.roundtrip.flat import COLUMNS, write_csv
from services.client.roundtrip.manifest import FORMATS, samples
from services.client.roundtrip.review import ReviewItem, Suggestion
from services.common.decisions import Decision, DecisionKind, read_decisions, write_decisions

KEEP, RELABEL, REMOVE = DecisionKind.KEEP, DecisionKind.RELABEL, DecisionKind.REMOVE
Rows = list[dict[str, Any]]
words = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=8
).filter(str.strip)


def rows_of(count: int) -> Rows:
    return [
        {"id": f"s{n}", "uri": f"s3://b/{n}.png", "label": "abc"[n % 3], "who": f"ann {n % 2}"} for n in range(count)
    ]


def write_manifest(path: Path, rows: Rows) -> None:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=3, compression="zstd")
    elif path.suffix == ".csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        path.write_bytes(text.getvalue().encode())
    else:
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def read_manifest(path: Path) -> Rows:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if path.suffix == ".csv":
        return list(csv.DictReader(io.StringIO(data.decode(), newline="")))
    return [json.loads(line) for line in data.decode().splitlines()]


def decided(sample_id: str, label: str, kind: DecisionKind = KEEP, new_label: str = "") -> Decision:
    return Decision(sample_id=sample_id, label=label, kind=kind, new_label=new_label)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(params=FORMATS)
def manifest(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"train{request.param}"
    write_manifest(path, rows_of(8))
    return path


def beside(manifest: Path, name: str = "new") -> Path:
    return manifest.with_name(manifest.name.replace("train", name))


@st.composite
def journeys(draw: st.DrawFn) -> tuple[str, Rows, dict[str, tuple[str, str]]]:
    """A manifest in some format, and what people decide about some of its samples."""
    ids = draw(st.lists(words, min_size=1, max_size=7, unique=True))
    rows = [{"id": one, "uri": draw(words), "label": draw(words), "who": draw(words)} for one in ids]
    chosen = draw(st.lists(st.sampled_from(ids), unique=True))
    answers = {one: (draw(st.sampled_from(["keep", "relabel", "remove", ""])), draw(words)) for one in chosen}
    return draw(st.sampled_from(FORMATS)), rows, answers


@settings(max_examples=150, deadline=None)
@given(journeys())
def test_export_decide_apply(journey: tuple[str, Rows, dict[str, tuple[str, str]]]) -> None:
    suffix, rows, answers = journey
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder, f"m{suffix}"), Path(folder, f"new{suffix}")
        write_manifest(path, rows)
        listed = io.StringIO()
        write_csv([_item(record.sample_id or "", record.label) for record in samples(path)], listed)
        filled = _fill_in(listed.getvalue(), answers)
        provenance = apply_decisions(path, read_decisions(filled.encode(), "review.csv"), out)
        kinds = {one: word for one, (word, new) in answers.items() if not (word == "relabel" and new == "")}
        wanted = [
            {**row, "label": answers[row["id"]][1]} if kinds.get(row["id"]) == "relabel" else row
            for row in rows
            if kinds.get(row["id"]) != "remove"
        ]
        assert read_manifest(out) == wanted
        counts = [sum(word == kind for word in kinds.values()) for kind in ("keep", "relabel", "remove")]
        assert [provenance.kept, provenance.relabelled, provenance.removed] == counts
        assert provenance.rows == len(rows)


def _item(sample_id: str, label: str) -> ReviewItem:
    suggestion = Suggestion(label=label, label_probability=0.25, suggested_label="other", suggested_probability=0.5)
    return ReviewItem(
        sample_id=sample_id, label=label, uri="s3://b/x.png", kinds=("label_issue",), suggestion=suggestion
    )


def _fill_in(listed: str, answers: dict[str, tuple[str, str]]) -> str:
    """What a person does with the exported list; a relabel to the label that is there is put as keep."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    for row in csv.DictReader(io.StringIO(listed, newline="")):
        word, new_label = answers.get(row["id"], ("", ""))
        if word == "relabel" and new_label == row["label"]:
            word = "keep"
            answers[row["id"]] = ("keep", new_label)
        writer.writerow({**row, "decision": word, "new_label": new_label})
    return text.getvalue()


class TestTheNewManifest:
    def test_untouched_lines_keep_their_bytes(self, tmp_path: Path) -> None:
        odd = b'\xef\xbb\xbfuri,label,"id",who\r\n"x",cat,a,"1"\r\n\r\ny,"c""at",b,\r\n'
        odd += b'z,cat,"c","two\r\nlines"\r\nw,cat,d,'
        path, out = tmp_path / "m.csv", tmp_path / "n.csv"
        path.write_bytes(odd)
        apply_decisions(path, [decided("b", 'c"at', RELABEL, "d,og"), decided("d", "cat", REMOVE)], out)
        assert out.read_bytes() == odd.replace(b'"c""at"', b'"d,og"').replace(b"w,cat,d,", b"")
        assert path.read_bytes() == odd

    def test_nothing_decided_is_a_copy(self, manifest: Path) -> None:
        out = beside(manifest)
        provenance = apply_decisions(manifest, [], out)
        assert read_manifest(out) == read_manifest(manifest)
        if not manifest.name.endswith((".gz", ".parquet")):
            assert provenance.manifest.sha256 == provenance.result.sha256

    def test_the_same_decisions_give_the_same_bytes(self, manifest: Path) -> None:
        made = [decided("s1", "b", RELABEL, "x"), decided("s2", "c", REMOVE)]
        first, second = beside(manifest, "one"), beside(manifest, "two")
        apply_decisions(manifest, made, first)
        apply_decisions(manifest, made, second)
        assert first.read_bytes() == second.read_bytes()

    def test_the_newest_decision_counts(self, manifest: Path) -> None:
        made = [decided("s0", "a", REMOVE), decided("s0", "a", RELABEL, "x"), decided("s0", "a", RELABEL, "y")]
        provenance = apply_decisions(manifest, made, beside(manifest))
        assert read_manifest(beside(manifest))[0]["label"] == "y"
        assert (provenance.relabelled, provenance.removed) == (1, 0)

    def test_every_sample_may_go(self, manifest: Path) -> None:
        made = [decided(row["id"], row["label"], REMOVE) for row in rows_of(8)]
        assert apply_decisions(manifest, made, beside(manifest)).removed == 8
        assert read_manifest(beside(manifest)) == []


class TestParquet:
    def test_schema_groups_and_compression_stay(self, tmp_path: Path) -> None:
        schema = pa.schema(
            [
                pa.field("id", pa.string(), nullable=False),
                pa.field("label", pa.dictionary(pa.int32(), pa.string()), metadata={"made": "by hand"}),
                pa.field("uri", pa.large_string()),
                pa.field("box", pa.list_(pa.struct([("x", pa.int16())]))),
            ],
            metadata={"owner": "us"},
        )
        rows = [{"id": f"s{n}", "label": "cat", "uri": "u", "box": [{"x": n}, None]} for n in range(7)]
        path, out = tmp_path / "m.parquet", tmp_path / "n.parquet"
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=3, compression="gzip")
        apply_decisions(path, [decided("s4", "cat", RELABEL, "dog"), decided("s6", "cat", REMOVE)], out)
        before, after = pq.ParquetFile(path), pq.ParquetFile(out)
        assert after.schema_arrow.equals(before.schema_arrow, check_metadata=True)
        assert [after.metadata.row_group(n).num_rows for n in range(3)] == [3, 3, 0]
        assert after.metadata.row_group(0).column(0).compression == "GZIP"
        wanted = [{**row, "label": "dog"} if row["id"] == "s4" else row for row in rows[:6]]
        assert pq.read_table(out).to_pylist() == wanted

    def test_labels_that_are_integers(self, tmp_path: Path) -> None:
        path, out = tmp_path / "m.parquet", tmp_path / "n.parquet"
        table = pa.table({"id": ["a", "b"], "uri": ["u", "u"], "label": pa.array([1, 2], pa.int16())})
        pq.write_table(table, path)
        apply_decisions(path, [decided("a", "1", RELABEL, "7")], out)
        assert pq.read_table(out)["label"].to_pylist() == [7, 2]
        for label in ("cat", "70000"):
            with pytest.raises(RoundTripError, match="its labels are int16, and a new label is not"):
                apply_decisions(path, [decided("a", "1", RELABEL, label)], tmp_path / "o.parquet")
        assert not (tmp_path / "o.parquet").exists()


class TestProvenance:
    def test_it_says_what_a_manifest_was_made_of(self, manifest: Path) -> None:
        made = [decided("s0", "a", RELABEL, "x"), decided("s1", "b"), decided("s2", "c", REMOVE)]
        source, out = manifest.with_name("d.csv"), beside(manifest)
        write_decisions(made, source)
        provenance = apply_decisions(manifest, made, out, sources=[source])
        assert json.loads(provenance_path(out).read_text()) == json.loads(json.dumps(asdict(provenance)))
        assert asdict(provenance) == {
            "manifest": {"name": manifest.name, "sha256": digest(manifest)},
            "result": {"name": out.name, "sha256": digest(out)},
            "decisions": ({"name": "d.csv", "sha256": digest(source)},),
            "rows": 8,
            "kept": 1,
            "relabelled": 1,
            "removed": 1,
            "stale": 0,
        }


class TestWhatIsRefused:
    def test_samples_that_are_not_there(self, manifest: Path) -> None:
        made = [decided(f"x{number}", "a") for number in range(7)]
        for force in (False, True):
            with pytest.raises(RoundTripError) as caught:
                apply_decisions(manifest, made, beside(manifest), force=force)
            assert "does not have 7 of the samples that were decided about: 'x0', 'x1'" in str(caught.value)
            assert "and 2 more" in str(caught.value)
        assert sorted(path.name for path in manifest.parent.iterdir()) == [manifest.name]

    def test_labels_that_have_changed_since(self, manifest: Path) -> None:
        made = [decided("s0", "old", RELABEL, "x"), decided("s1", "old"), decided("s2", "c", REMOVE)]
        with pytest.raises(
            RoundTripError, match=r"2 decisions are about another label .* 's0' is labelled 'a', not 'old'"
        ):
            apply_decisions(manifest, made, beside(manifest))
        assert not beside(manifest).exists()
        assert apply_decisions(manifest, made, beside(manifest), force=True).stale == 2
        assert [row["label"] for row in read_manifest(beside(manifest))][:3] == ["x", "b", "a"]

    def test_applying_twice(self, manifest: Path) -> None:
        made = [decided("s0", "a", RELABEL, "x")]
        apply_decisions(manifest, made, beside(manifest))
        with pytest.raises(RoundTripError, match="about another label"):
            apply_decisions(beside(manifest), made, beside(manifest, "third"))

    def test_places_that_are_taken(self, manifest: Path) -> None:
        with pytest.raises(RoundTripError, match="is there already"):
            apply_decisions(manifest, [], manifest)
        other = ".csv" if manifest.suffix != ".csv" else ".jsonl"
        with pytest.raises(RoundTripError, match="has the format of"):
            apply_decisions(manifest, [], manifest.with_name(f"new{other}"))

    def test_ids_that_are_there_twice(self, tmp_path: Path) -> None:
        path = tmp_path / "m.csv"
        path.write_text("id,uri,label\na,u,x\nb,u,x\na,u,y\n")
        with pytest.raises(RoundTripError, match=r"the id 'a' twice \(line 4\)"):
            apply_decisions(path, [decided("a", "x")], tmp_path / "n.csv")

    def test_other_formats(self, tmp_path: Path) -> None:
        with pytest.raises(RoundTripError, match="ends with one of"):
            list(samples(tmp_path / "m.txt"))


class TestMemory:
    def test_what_was_kept_or_given_is_remembered(self, tmp_path: Path) -> None:
        path = tmp_path / "reviewed.csv"
        assert recall(path) == []
        assert remember(path, [], [decided("b", "x"), decided("a", "x", RELABEL, "y"), decided("c", "x", REMOVE)]) == 2
        assert read_decisions(path) == [decided("a", "y"), decided("b", "x")]

    def test_the_newest_wins(self, tmp_path: Path) -> None:
        path = tmp_path / "reviewed.csv"
        remember(path, [], [decided("a", "x"), decided("b", "x"), decided("c", "x")])
        later = [decided("b", "x", RELABEL, "z"), decided("c", "x", REMOVE), decided("d", "w"), decided("d", "w")]
        assert remember(path, recall(path), later) == 3
        assert read_decisions(path) == [decided("a", "x"), decided("b", "z"), decided("d", "w")]
