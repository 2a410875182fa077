"""What people get to see: the right samples with the right findings, in the forms of other programs."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eif_engine.audit_tables import FINDING_KINDS, FINDINGS, ISSUES, TEST_ISSUES
from services.client.roundtrip.errors import RoundTripError
from services.client.roundtrip.fiftyone import read_tags, write_dataset
from services.client.roundtrip.flat import COLUMNS, write_csv, write_parquet
from services.client.roundtrip.images import Rewrite, image_of
from services.client.roundtrip.label_studio import labelling_configuration, read_annotations, write_tasks
from services.client.roundtrip.records import Record
from services.client.roundtrip.review import KINDS, MAX_NOTES, ReviewItem, Split, Suggestion, review
from services.common.decisions import Decision, DecisionKind, read_decisions
from tests.audit_results import finding

KEEP, RELABEL, REMOVE = DecisionKind.KEEP, DecisionKind.RELABEL, DecisionKind.REMOVE


def record(sample_id: str, label: str = "cat", **fields: str) -> Record:
    return Record(line=1, raw=b"", sample_id=sample_id, label=label, uri=f"s3://b/{sample_id}.png", **fields)


def issue(sample_id: str, label: str = "cat", probability: float = 0.75, suggested: str = "dog") -> dict[str, Any]:
    return {
        "rank": 1,
        "sample_id": sample_id,
        "label": label,
        "issue_probability": probability,
        "flagged": probability >= 0.5,
        "reviewed": False,
        "suggested_label": suggested,
        "suggested_probability": 0.625,
        "alternative_label": "cow",
        "alternative_probability": 0.25,
        "neighbor_ids": [],
        "neighbor_labels": [],
        "part_names": [],
        "part_scores": [],
    }


def tables(findings: list[dict[str, Any]], **others: list[dict[str, Any]]) -> dict[str, pa.Table]:
    schemas = {"findings": FINDINGS, "issues": ISSUES, "test_issues": TEST_ISSUES}
    rows = {"findings": findings, **others}
    return {name: pa.Table.from_pylist(rows.get(name, []), schema=schema) for name, schema in schemas.items()}


def found(split: Split, findings: list[dict[str, Any]], **others: list[dict[str, Any]]) -> dict[str, tuple[str, ...]]:
    """Kinds of findings by sample, of a manifest that has every sample there is."""
    records = [record(sample_id) for sample_id in "abcdefgh"]
    return {item.sample_id: item.kinds for item in review(records, tables(findings, **others), split=split).items}


class TestReview:
    def test_findings_go_to_the_split_they_are_about(self) -> None:
        findings = [
            finding("label_issue", "a"),
            finding("test_label_issue", "b"),
            finding("confusion", "c"),
            finding("leak", "d", "e"),
            finding("label_conflict", "f", "g"),
            finding("duplicate", "a", "h"),
            finding("outlier", "a", finding_id="outlier:train:a"),
            finding("outlier", "b", finding_id="outlier:test:b"),
            finding("class", "", label="cat"),
        ]
        assert found(Split.TRAIN, findings) == {
            "a": ("duplicate", "label_issue", "outlier"),
            "d": ("leak",),
            "f": ("label_conflict",),
            "g": ("label_conflict",),
            "h": ("duplicate",),
        }
        assert found(Split.TEST, findings) == {
            "b": ("outlier", "test_label_issue"),
            "c": ("confusion",),
            "e": ("leak",),
        }

    def test_every_kind_of_finding_about_samples_is_in_some_split(self) -> None:
        assert {kind for kinds in KINDS.values() for kind in kinds} == set(FINDING_KINDS) - {"class"}

    def test_the_gravest_come_first(self) -> None:
        findings = [
            finding("label_issue", name, severity=severity)
            for name, severity in zip("abc", (0.2, 0.9, 0.2), strict=True)
        ]
        items = review([record(name) for name in "cba"], tables(findings)).items
        assert [(item.sample_id, item.severity) for item in items] == [("b", 0.9), ("a", 0.2), ("c", 0.2)]

    def test_suggestions_are_another_label_where_there_is_one(self) -> None:
        findings = [finding("label_issue", "a"), finding("outlier", "b", finding_id="outlier:train:b")]
        issues = [issue("a"), issue("b", probability=0.1, suggested="cat")]
        first, second = review([record("a"), record("b")], tables(findings, issues=issues)).items
        assert first.suggestion == Suggestion(
            label="cat", label_probability=0.25, suggested_label="dog", suggested_probability=0.625
        )
        assert second.suggestion == Suggestion(
            label="cat", label_probability=0.9, suggested_label="cow", suggested_probability=0.25
        )

    def test_suggestions_for_test_labels(self) -> None:
        row = {key: issue("b")[key] for key in TEST_ISSUES.names}
        made = tables([finding("test_label_issue", "b")], test_issues=[row], issues=[issue("b", label="other")])
        (item,) = review([record("b")], made, split=Split.TEST).items
        assert item.suggestion is not None
        assert (item.suggestion.label_probability, item.suggestion.suggested_label) == (0.25, "dog")

    def test_what_does_not_fit_is_counted(self) -> None:
        findings = [finding("label_issue", name) for name in "abcx"]
        issues = [issue("a"), issue("b", label="changed since")]
        got = review([record("a"), record("b"), record("c"), record("d")], tables(findings, issues=issues))
        assert [item.sample_id for item in got.items] == ["a", "c"]
        assert (got.missing, got.stale) == (1, 1)

    def test_only_some_kinds_or_everything(self) -> None:
        made = tables([finding("label_issue", "a"), finding("leak", "b", "t")], issues=[issue("a"), issue("c")])
        records = [record(name) for name in "abc"]
        assert [item.sample_id for item in review(records, made, kinds=["leak"]).items] == ["b"]
        everything = review(records, made, kinds=["leak"], everything=True).items
        assert [(item.sample_id, item.kinds) for item in everything] == [("b", ("leak",)), ("a", ()), ("c", ())]
        assert everything[2].suggestion is not None

    def test_many_findings_about_one_sample(self) -> None:
        findings = [finding("duplicate", "a", f"x{number}") for number in range(100)]
        (item,) = review([record("a")], tables(findings)).items
        assert len(item.notes) == MAX_NOTES

    def test_what_is_refused(self) -> None:
        made = tables([finding("label_issue", "a")])
        with pytest.raises(RoundTripError, match="none of the 1 samples with findings: is it the train one"):
            review([record("t")], made)
        with pytest.raises(RoundTripError, match=r"findings about train samples are of kind .*, not confusion"):
            review([record("a")], made, kinds=["confusion"])


ITEMS = [
    ReviewItem(
        sample_id="a",
        label="cat",
        uri="s3://b/a.png",
        kinds=("label_issue", "leak"),
        severity=0.75,
        notes=("looks like dog", "also in test"),
        suggestion=Suggestion(label="cat", label_probability=0.25, suggested_label="dog", suggested_probability=0.625),
    ),
    ReviewItem(sample_id="b", label="dog", uri="file:///d/t.tar", member="b.png"),
]


class TestImages:
    def test_the_start_of_a_uri_can_be_replaced(self) -> None:
        rewrites = (Rewrite.parse("s3://b/a=X"), Rewrite.parse("s3://b/=https://h/?k=v/"))
        assert image_of(ITEMS[0], rewrites) == "X.png"
        assert image_of(ITEMS[0], rewrites[1:]) == "https://h/?k=v/a.png"
        assert image_of(ITEMS[1], rewrites) == "file:///d/t.tar#b.png"

    @pytest.mark.parametrize("text", ["", "s3://b", "=x"])
    def test_what_is_no_rewrite(self, text: str) -> None:
        with pytest.raises(RoundTripError, match="is not START=BY"):
            Rewrite.parse(text)


class TestFlat:
    def test_csv_is_a_file_of_decisions_to_fill_in(self) -> None:
        out = io.StringIO()
        write_csv(ITEMS, out, rewrites=(Rewrite.parse("s3://b/=/mnt/"),))
        rows = list(csv.DictReader(io.StringIO(out.getvalue())))
        assert rows[0] == {
            "id": "a",
            "label": "cat",
            "decision": "",
            "new_label": "dog",
            "note": "",
            "label_probability": "0.25",
            "suggested_label": "dog",
            "suggested_probability": "0.625",
            "severity": "0.75",
            "findings": "label_issue leak",
            "notes": "looks like dog / also in test",
            "image": "/mnt/a.png",
        }
        assert read_decisions(out.getvalue().encode(), "r.csv") == []
        filled = out.getvalue().replace("a,cat,,", "a,cat,relabel,").replace("b,dog,,", "b,dog,keep,")
        assert read_decisions(filled.encode(), "r.csv") == [
            Decision(sample_id="a", label="cat", kind=RELABEL, new_label="dog"),
            Decision(sample_id="b", label="dog", kind=KEEP),
        ]

    def test_parquet_has_the_same(self, tmp_path: Path) -> None:
        write_parquet(ITEMS, tmp_path / "r.parquet")
        table = pq.read_table(tmp_path / "r.parquet")
        assert table.column_names == list(COLUMNS)
        assert table["severity"].to_pylist() == [0.75, 0.0]
        assert table["suggested_probability"].to_pylist() == [0.625, None]


class TestFiftyOne:
    def test_samples_and_metadata(self, tmp_path: Path) -> None:
        write_dataset(ITEMS, tmp_path / "d", job="j")
        metadata = json.loads((tmp_path / "d" / "metadata.json").read_text())
        assert (metadata["media_type"], "version" in metadata) == ("image", False)
        first, second = json.loads((tmp_path / "d" / "samples.json").read_text())["samples"]
        assert first == {
            "filepath": "s3://b/a.png",
            "tags": ["label_issue", "leak"],
            "eif_id": "a",
            "eif_label": "cat",
            "ground_truth": {"_cls": "Classification", "tags": [], "label": "cat", "confidence": 0.25},
            "suggestion": {"_cls": "Classification", "tags": [], "label": "dog", "confidence": 0.625},
            "severity": 0.75,
            "notes": ["looks like dog", "also in test"],
        }
        assert second["filepath"] == "/d/t.tar#b.png"
        assert "suggestion" not in second

    def test_no_samples(self, tmp_path: Path) -> None:
        write_dataset([], tmp_path, job="j")
        assert json.loads((tmp_path / "samples.json").read_text()) == {"samples": []}
        assert read_tags(tmp_path / "samples.json") == []

    @pytest.mark.parametrize(
        ("tags", "now", "decided"),
        [
            (["leak"], "cat", None),
            (["leak", "keep"], "cat", (KEEP, "")),
            (["relabel"], "cat", (RELABEL, "dog")),
            (["relabel"], "cow", (RELABEL, "cow")),
            (["keep"], "cow", (RELABEL, "cow")),
            ([], "cow", (RELABEL, "cow")),
            (["remove"], "cow", (REMOVE, "")),
        ],
    )
    def test_tags_and_changed_labels_are_decisions(
        self, tmp_path: Path, tags: list[str], now: str, decided: tuple[DecisionKind, str] | None
    ) -> None:
        found = read_tags(tagged(tmp_path, {"tags": tags, "ground_truth": {"_cls": "Classification", "label": now}}))
        kinds = [(one.sample_id, one.label, one.kind, one.new_label) for one in found]
        assert kinds == ([("a", "cat", *decided)] if decided else [])

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"tags": ["keep", "remove"]}, r"sample 1: it \('a'\) has the tags keep and remove"),
            ({"tags": ["relabel"], "suggestion": None}, "has the tag relabel, but no suggestion"),
            ({"ground_truth": {"label": "two\nlines"}}, "has a label that no manifest can have"),
            ({"eif_label": None}, "has no eif_id and eif_label"),
            ({"eif_id": ""}, "has no eif_id and eif_label"),
        ],
    )
    def test_what_cannot_be_a_decision(self, tmp_path: Path, changes: dict[str, Any], said: str) -> None:
        with pytest.raises(RoundTripError, match=said):
            read_tags(tagged(tmp_path, changes))

    @pytest.mark.parametrize("text", ["{", "[]", "{}", '{"samples": [5]}', '{"samples": {}}'])
    def test_what_is_no_dataset(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "samples.json").write_text(text)
        with pytest.raises(RoundTripError, match=r"samples\.json"):
            read_tags(tmp_path / "samples.json")


def tagged(folder: Path, changes: dict[str, Any]) -> Path:
    """A dataset as it comes back, with its first sample changed."""
    write_dataset(ITEMS, folder, job="j")
    path = folder / "samples.json"
    content = json.loads(path.read_text())
    content["samples"][0] |= changes
    path.write_text(json.dumps(content))
    return path


def tasks_of(items: list[ReviewItem]) -> list[dict[str, Any]]:
    out = io.StringIO()
    write_tasks(items, out, job="j")
    tasks: list[dict[str, Any]] = json.loads(out.getvalue())
    return tasks


def annotation(at: str = "2026-01-01T00:00:00Z", *, cancelled: bool = False, **answers: str) -> dict[str, Any]:
    """What Label Studio writes for a submitted task."""
    results = [
        {
            "from_name": name,
            "to_name": "image",
            "type": "textarea" if name == "note" else "choices",
            "value": {"text" if name == "note" else "choices": [answer]},
        }
        for name, answer in answers.items()
    ]
    return {"id": 7, "result": results, "was_cancelled": cancelled, "created_at": at, "updated_at": at}


def exported(tmp_path: Path, *annotations: dict[str, Any], data: dict[str, Any] | None = None) -> list[Decision]:
    task = {"id": 3, "data": tasks_of(ITEMS)[0]["data"] if data is None else data, "annotations": list(annotations)}
    path = tmp_path / "export.json"
    path.write_text(json.dumps([task]))
    return read_annotations(path)


class TestLabelStudio:
    def test_tasks_have_both_labels_as_predictions(self) -> None:
        first, second = tasks_of(ITEMS)
        assert (first["data"]["image"], first["data"]["sample_id"]) == ("s3://b/a.png", "a")
        assert (first["data"]["current_label"], first["data"]["suggested_label"]) == ("cat", "dog")
        said = [(one["score"], one["result"][0]["value"]["choices"]) for one in first["predictions"]]
        assert said == [(0.625, ["dog"]), (0.25, ["cat"])]
        assert second["predictions"] == []
        assert tasks_of([]) == []

    def test_predictions_fit_the_configuration(self) -> None:
        view = ET.fromstring(labelling_configuration(["dog", "cat", 'a<b&"c"', "dog"]))  # noqa: S314  our own
        controls = {control.get("name"): control for control in view if control.get("toName")}
        assert {control.get("toName") for control in controls.values()} == {view.find("Image").get("name")}  # type: ignore[union-attr]  # it is there
        assert [choice.get("value") for choice in controls["label"]] == ['a<b&"c"', "cat", "dog"]
        variables = {element.get("value", "") for element in view if element.get("value", "").startswith("$")}
        first, _ = tasks_of(ITEMS)
        assert {variable[1:] for variable in variables} <= first["data"].keys()
        for prediction in first["predictions"]:
            (result,) = prediction["result"]
            assert (result["from_name"], result["to_name"], result["type"]) == ("label", "image", "choices")
            assert result["value"]["choices"][0] in [choice.get("value") for choice in controls["label"]]

    @pytest.mark.parametrize(
        ("annotations", "kind", "new_label"),
        [
            ([annotation(label="cat")], KEEP, ""),
            ([annotation(label="dog")], RELABEL, "dog"),
            ([annotation(decision="remove")], REMOVE, ""),
            ([annotation(label="dog", decision="remove")], REMOVE, ""),
            (
                [annotation("2026-01-02T00:00:00Z", label="cow"), annotation("2026-01-01T00:00:00Z", label="cat")],
                RELABEL,
                "cow",
            ),
            ([annotation(label="cow"), annotation(label="cat")], KEEP, ""),
            ([annotation(label="cow"), annotation("2026-02-01T00:00:00Z", cancelled=True, label="x")], RELABEL, "cow"),
        ],
    )
    def test_what_was_submitted_last_counts(
        self, tmp_path: Path, annotations: list[dict[str, Any]], kind: DecisionKind, new_label: str
    ) -> None:
        assert exported(tmp_path, *annotations) == [
            Decision(sample_id="a", label="cat", kind=kind, new_label=new_label)
        ]

    def test_notes_become_one_line(self, tmp_path: Path) -> None:
        (decision,) = exported(tmp_path, annotation(label="cat", note=" too\n dark "))
        assert decision.note == "too dark"

    def test_tasks_without_an_answer_are_passed_over(self, tmp_path: Path) -> None:
        assert exported(tmp_path) == []
        assert exported(tmp_path, annotation(), annotation(note="hm", cancelled=True)) == []

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("{", "is not valid JSON"),
            ("{}", "is not a list of tasks"),
            ('[{"id": 1, "image": "x", "label": "cat"}]', "task 1: it has no data and annotations: export"),
            ("[5]", "task 1: it has no data and annotations"),
        ],
    )
    def test_other_exports(self, tmp_path: Path, text: str, said: str) -> None:
        path = tmp_path / "export.json"
        path.write_text(text)
        with pytest.raises(RoundTripError, match=said):
            read_annotations(path)

    def test_tasks_of_others(self, tmp_path: Path) -> None:
        with pytest.raises(RoundTripError, match=r"task 1: it has no data\.sample_id and data\.current_label"):
            exported(tmp_path, annotation(label="cat"), data={"image": "x"})
        with pytest.raises(RoundTripError, match="has a label that no manifest can have"):
            exported(tmp_path, annotation(label="two\nlines"))

    @settings(deadline=None)
    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["value", "choices", "text", "from_name", "result", "label", "updated_at"]), inner
                )
            ),
            max_leaves=12,
        )
    )
    def test_any_annotation_is_read_or_refused(self, tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
        path = tmp_path_factory.mktemp("export") / "export.json"
        task = {"data": {"sample_id": "a", "current_label": "cat"}, "annotations": [{"result": [value]}, value]}
        path.write_text(json.dumps([task]))
        try:
            decisions = read_annotations(path)
        except RoundTripError:
            return
        assert len(decisions) <= 1
