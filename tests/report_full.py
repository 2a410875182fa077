"""A small audit with something in every table, whose ids and labels are what the caller says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from services.influence.worker.report import Difference, FindingChange, ReportSource, RuleResult, SampleKey, Verdict
from services.influence.worker.report.thumbnails import thumbnail
from tests.report_sources import CREATED, JOB, make_table, photo

HOSTILE = (
    "</script><script>window.pwned=1</script>",
    "<img src=x onerror=window.pwned=1>",
    "\"quoted\" & 'single' {{ 7*7 }} ${window.pwned=1}",
    "\u202eright to left\u202c \u05e2\u05d1\u05e8\u05d9\u05ea \u0639\u0631\u0628\u064a",
    "emoji \U0001f9ff\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "long " + "x" * 995,
    "@@pictures@@ <!-- ]]> \u2028 \x01",
)
FIGURES = {
    "train_samples": 8.0,
    "test_samples": 4.0,
    "recall_at_1": 0.7,
    "recall_at_4": 0.9,
    "confusion_pairs": 2.0,
    "confusion_classes": 1.0,
    "label_issues": 1.0,
    "test_label_issues": 1.0,
    "leaks": 1.0,
    "canary_precision": 0.9,
    "classes_centralized": 1.0,
    "proof_recall_gain": 0.02,
}


def full_tables(ids: Sequence[str], labels: Sequence[str]) -> dict[str, pa.Table]:
    """Every table of an audit about seven samples of each split and seven labels."""
    rows: dict[str, list[dict[str, Any]]] = {
        "quality": [
            _row("quality", scope="all", value="", metric="recall_at_1", samples=4, score=0.7),
            _row("quality", scope="class", value=labels[0], metric="recall_at_1", samples=2, score=0.2),
            _row("quality", scope="column:camera", value=labels[1], metric="recall_at_1", samples=2, score=0.4),
        ],
        "confusions": [
            _row("confusions", sample_id=ids[0], neighbor_id=ids[1], label=labels[0], neighbor_label=labels[1]),
            _row(
                "confusions",
                sample_id=ids[2],
                neighbor_id=ids[3],
                label=labels[2],
                neighbor_label=labels[3],
                set_aside=True,
                suspect_id=ids[3],
                suspect_probability=0.9,
                suspect_suggested_label=labels[2],
            ),
        ],
        "confusion_classes": [
            _row("confusion_classes", label=labels[0], query_id="class:a", samples=2, confusions=1, top_label=labels[1])
        ],
        "class_pairs": [_row("class_pairs", label=labels[0], neighbor_label=labels[1], confusions=1)],
        "ranking": [
            _row("ranking", query_id=query, rank=rank, sample_id=ids[rank], label=labels[rank], score=2.5 - rank)
            for query in ("all", "class:a")
            for rank in range(1, 7)
        ],
        "pairs": [
            _row(
                "pairs",
                query_id="class:a",
                sample_id=ids[0],
                neighbor_id=ids[1],
                label=labels[0],
                neighbor_label=labels[1],
                distance=0.125,
            )
        ],
        "harm": [
            _row("harm", rank=rank, sample_id=ids[rank], label=labels[rank], rank_low=1, rank_high=6, positive=1 / rank)
            for rank in range(1, 7)
        ],
        "issues": [_issue(place, ids, labels) for place in range(7)],
        "test_issues": [
            _row("test_issues", sample_id=ids[3], label=labels[3], issue_probability=0.9, suggested_label=labels[2])
        ],
        "advice": [
            _row("advice", label=labels[0], samples=3, advice="CENTRALIZED", top_target=labels[1], action=labels[2]),
            _row("advice", label=labels[1], samples=3, advice="NONE", same_as=labels[0], same_as_overlap=0.6),
        ],
        "duplicates": [
            _row("duplicates", group=1, sample_id=ids[0], split="train", label=labels[0], similarity=1, exact=True),
            _row("duplicates", group=1, sample_id=ids[1], split="train", label=labels[1], similarity=0.995),
            _row("duplicates", group=2, sample_id=ids[2], split="train", label=labels[2], exact=True, leak=True),
            _row("duplicates", group=2, sample_id=ids[3], split="test", label=labels[2], exact=True, leak=True),
        ],
        "outliers": [_row("outliers", rank=1, sample_id=ids[4], split="train", label=labels[4], score=4.5)],
        "rollups": [_row("rollups", column=labels[5], value=labels[6], samples=4, flagged=1, harm_share=0.5)],
        "canary": [
            _row("canary", budget_share=share, budget=1, precision=1 - share, recall=share) for share in (0.1, 0.2)
        ],
        "proof": [
            _row("proof", target=f"class:{labels[0]}", action="reweight", arm="eif", draws=1, distance_gain=0.1),
            _row("proof", target=f"class:{labels[0]}", action="reweight", arm="random", draws=3, distance_gain=0.02),
            _row("proof", target="all", action="relabel", arm="issues", draws=1, recall_gain=0.02),
            _row("proof", target="all", action="relabel", arm="random", draws=3, recall_gain_error=0.01),
        ],
        "findings": [_finding(kind, ids, labels) for kind in ("confusion", "label_issue", "leak", "outlier", "class")],
    }
    return {name: make_table(name, content) for name, content in rows.items()}


def full_source(ids: Sequence[str] = HOSTILE, labels: Sequence[str] = HOSTILE) -> ReportSource:
    """An audit with everything that a report can show."""
    tables = full_tables(ids, labels)
    found = tables["findings"].to_pylist()
    changes = [FindingChange(change="new", **found[0]), FindingChange(change="persisting", **found[1])]
    changes.append(FindingChange(change="fixed", **{**found[2], "finding_id": "leak:gone:gone"}))
    return ReportSource(
        job=JOB,
        display_name=labels[0],
        created=CREATED,
        provenance={"device": "cpu", labels[1]: labels[2]},
        figures=FIGURES,
        missing=[f"Left out: {labels[1]}"],
        tables=tables,
        difference=Difference(
            previous="projects/shop/influenceJobs/last-night",
            figures={**FIGURES, "recall_at_1": 0.65, "confusion_pairs": 1.0},
            changes=changes,
        ),
        explanations={(ids[0], ids[1]): photo(5)},
        verdict=Verdict(verdict="FAIL", rules=[RuleResult(rule=labels[0], verdict="FAIL", message=labels[1])]),
        thumbnails=_pictures,
    )


def _pictures(keys: Sequence[SampleKey]) -> dict[SampleKey, bytes]:
    return {key: thumbnail(photo(place)) or b"" for place, key in enumerate(keys)}


_ZEROS: dict[str, dict[str, Any]] = {}


def _row(table: str, **values: Any) -> dict[str, Any]:
    """A row of the table: what is not given is 0, false or empty."""
    if table not in _ZEROS:
        schema = make_table(table, []).schema
        _ZEROS[table] = {field.name: _zero(field.type) for field in schema}
    return {**_ZEROS[table], **values}


def _zero(kind: pa.DataType) -> Any:
    if pa.types.is_string(kind):
        return ""
    if pa.types.is_list(kind):
        return []
    return False if pa.types.is_boolean(kind) else 0


def _issue(place: int, ids: Sequence[str], labels: Sequence[str]) -> dict[str, Any]:
    other = (place + 1) % 7
    return _row(
        "issues",
        rank=place + 1,
        sample_id=ids[place],
        label=labels[place],
        issue_probability=0.95 - place / 10,
        flagged=place == 0,
        reviewed=place == 1,
        suggested_label=labels[other],
        suggested_probability=0.8,
        alternative_label=labels[other],
        alternative_probability=0.8,
        neighbor_ids=[ids[other]],
        neighbor_labels=[labels[other]],
        part_names=["loss"],
        part_scores=[10.0 - place],
    )


def _finding(kind: str, ids: Sequence[str], labels: Sequence[str]) -> dict[str, Any]:
    paired = kind in {"confusion", "leak"}
    return _row(
        "findings",
        finding_id=f"{kind}:train:1",
        kind=kind,
        sample_id="" if kind == "class" else ids[0],
        other_id=ids[1] if paired else "",
        label=labels[0],
        other_label=labels[1],
        severity=0.5,
        summary=labels[2],
    )
