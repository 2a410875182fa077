"""What the page's program reads: every section as JSON, within a size."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.influence.worker.report import label_issues, listings
from services.influence.worker.report.confusions import confusion_classes
from services.influence.worker.report.duplicates import duplicates
from services.influence.worker.report.findings import findings
from services.influence.worker.report.limits import MAX_ROW_BYTES, RowLimits
from services.influence.worker.report.report_tables import ReportTables
from services.influence.worker.report.sample_book import SampleBook
from services.influence.worker.report.section import Section, number, probability
from services.influence.worker.report.source import ReportSource

_ESCAPES: dict[str, str | int | None] = {
    "<": "\\u003c",
    ">": "\\u003e",
    "&": "\\u0026",
    "\u2028": "\\u2028",
    "\u2029": "\\u2029",
}


@dataclass(frozen=True, kw_only=True)
class Payload:
    """The rows of the page.

    Attributes:
        sections: By name.
        book: Samples and labels that they speak of.
        text: All of it as JSON that may stand in a script element.
    """

    sections: Mapping[str, Section]
    book: SampleBook
    text: str


def make_payload(source: ReportSource) -> Payload:
    """Every section, with fewer rows where ids and labels are long."""
    limits = RowLimits()
    while True:
        payload = _gather(source, limits)
        if len(payload.text) <= MAX_ROW_BYTES or limits == limits.halved():
            return payload
        limits = limits.halved()


def script_json(value: object) -> str:
    """JSON that may stand in a script element: nothing in it ends the element or begins a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.translate(str.maketrans(_ESCAPES))


def _gather(source: ReportSource, limits: RowLimits) -> Payload:
    tables, book = ReportTables(source.tables), SampleBook()
    quality, metrics = listings.quality(tables, limits)
    sections = {
        "confusions": confusion_classes(tables, book, limits),
        "issues": label_issues.label_issues(tables, book, limits),
        "test_issues": label_issues.doubtful_test_labels(tables, book, limits),
        "duplicates": duplicates(tables, book, limits),
        "outliers": listings.outliers(tables, book, limits),
        "harm": listings.harm(tables, book, limits),
        "set_aside": label_issues.set_aside(tables, book, limits),
        "findings": findings(tables, book, limits, source.difference),
        "advice": listings.advice(tables, book, limits),
        "class_pairs": listings.class_pairs(tables, book, limits),
        "rollups": listings.rollups(tables, limits),
        "quality": quality,
    }
    content = {
        "sections": {name: section.to_json() for name, section in sections.items()},
        "metrics": metrics,
        "harm": _harm_of(tables, book),
        "doubt": _doubt_of(tables, book),
        "samples": book.rows(),
        "labels": book.labels,  # last: all of the above may speak of more
    }
    return Payload(sections=sections, book=book, text=script_json(content))


def _train_ids(book: SampleBook) -> tuple[list[str], Mapping[str, int]]:
    places = {sample_id: place for place, (split, sample_id) in enumerate(book.keys) if split == "train"}
    return list(places), places


def _harm_of(tables: ReportTables, book: SampleBook) -> dict[int, list[Any]]:
    """Rank, interval of ranks and signed harm of each training sample spoken of."""
    ids, places = _train_ids(book)
    found = tables.matching("harm", "sample_id", ids, ("rank", "rank_low", "rank_high", "signed"))
    return {
        places[row["sample_id"]]: [row["rank"], row["rank_low"], row["rank_high"], number(row["signed"], 4)]
        for row in found
    }


def _doubt_of(tables: ReportTables, book: SampleBook) -> dict[int, list[Any]]:
    """Probability that its label is wrong, of each training sample spoken of, and the label suggested."""
    ids, places = _train_ids(book)
    found = tables.matching("issues", "sample_id", ids, ("issue_probability", "suggested_label"))
    return {
        places[row["sample_id"]]: [probability(row["issue_probability"]), book.label(row["suggested_label"])]
        for row in found
    }
