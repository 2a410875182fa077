"""Everything found as findings with ids: what gates and differences between audits speak of.

Severity is how sure or how grave, in [0, 1]: probabilities for labels, closeness (1 - d/2) for confusions, similarity
for duplicates, 1 - 1/score for outliers, the share recommended elsewhere or the overlap for classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from eif_engine.audit_tables import FINDING_KINDS
from eif_engine.audit_types import Columns, Screened
from eif_engine.functional.class_advice import Advice
from eif_engine.jobs.audit_classes import AdvisedClass
from eif_engine.jobs.audit_confusions import Confusion
from eif_engine.jobs.audit_data import Samples
from eif_engine.jobs.audit_duplicates import DuplicateGroup, Member
from eif_engine.jobs.audit_issues import Issues
from eif_engine.jobs.audit_outliers import Outlier

SAME_AS = "SAME_AS"
"""What a finding about classes that may be one identity says in place of an advice."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A row of the table `findings`."""

    finding_id: str
    kind: str
    sample_id: str = ""
    other_id: str = ""
    label: str = ""
    other_label: str = ""
    severity: float
    summary: str


def finding_id(kind: str, *parts: str) -> str:
    """The kind and its parts; colons in parts are written %3A, percent signs %25."""
    return ":".join((kind, *(part.replace("%", "%25").replace(":", "%3A") for part in parts)))


def findings_table(findings: Iterable[Finding]) -> Columns:
    """The table `findings`: kind by kind, the most severe first, then by id; each id once, as its most severe."""
    kinds = list(FINDING_KINDS)
    ordered = sorted(findings, key=lambda each: (kinds.index(each.kind), -each.severity, each.finding_id))
    rows = list({each.finding_id: each for each in reversed(ordered)}.values())[::-1]
    return {part.name: [getattr(row, part.name) for row in rows] for part in fields(Finding)}


def confusion_findings(confusions: Sequence[Confusion], test: Samples) -> Iterator[Finding]:
    """Those that are not set aside."""
    for each in confusions:
        if each.set_aside:
            continue
        sample, other = each.pair.row, each.pair.neighbor
        yield Finding(
            finding_id=finding_id("confusion", test.ids[sample], test.labels[other]),
            kind="confusion",
            sample_id=test.ids[sample],
            other_id=test.ids[other],
            label=test.labels[sample],
            other_label=test.labels[other],
            severity=min(1.0, max(0.0, 1 - each.pair.distance / 2)),
            summary=f"{test.ids[sample]} ({test.labels[sample]}) is nearest to {test.ids[other]} "
            f"({test.labels[other]}), at distance {each.pair.distance:.3f}.",
        )


def label_findings(issues: Issues | None, train: Samples) -> Iterator[Finding]:
    """Training samples that are flagged."""
    if issues is not None:
        report, rows = issues.report, np.flatnonzero(issues.flagged_N).tolist()
        yield from _labels("label_issue", report.issue_score_N, report.alternative_label_N, rows, train)


def screened_findings(screened: Screened | None, test: Samples) -> Iterator[Finding]:
    """Test samples whose label looks wrong."""
    if screened is not None:
        rows = np.flatnonzero(screened.doubted_M).tolist()
        yield from _labels("test_label_issue", screened.issue_score_M, screened.alternative_label_M, rows, test)


def duplicate_findings(groups: Sequence[DuplicateGroup]) -> Iterator[Finding]:
    """Of each group the first training sample beside every other one, and beside every test sample."""
    for group in groups:
        first = group.members[0]
        if first.split != "train":
            continue
        for other in group.members[1:]:
            if other.split == "test":
                yield _pair("leak", first, other, "is in train and, as {other}, in test")
            elif other.label != first.label:
                yield _pair("label_conflict", first, other, "and {other} are the same but are labelled {labels}")
            else:
                yield _pair("duplicate", first, other, "and {other} are the same")


def outlier_findings(outliers: Sequence[Outlier]) -> Iterator[Finding]:
    """Every outlier."""
    for each in outliers:
        yield Finding(
            finding_id=finding_id("outlier", each.split, each.sample_id),
            kind="outlier",
            sample_id=each.sample_id,
            label=each.label,
            severity=1 - 1 / each.score,
            summary=f"{each.sample_id} ({each.label}, {each.split}) is {each.score:.1f} times as far from its "
            "neighbours as is usual.",
        )


def class_findings(classes: Sequence[AdvisedClass]) -> Iterator[Finding]:
    """Classes that need more than single corrections, and pairs that may be one identity."""
    for each in classes:
        if each.advice.advice in (Advice.CENTRALIZED, Advice.DIVERSIFIED):
            yield Finding(
                finding_id=finding_id("class", each.label, each.advice.advice.value, each.top_target),
                kind="class",
                label=each.label,
                other_label=each.top_target,
                severity=each.advice.elsewhere,
                summary=f"{each.label}: {each.action}",
            )
        if each.same_as:
            first, second = sorted((each.label, each.same_as))
            yield Finding(
                finding_id=finding_id("class", first, SAME_AS, second),
                kind="class",
                label=first,
                other_label=second,
                severity=each.overlap,
                summary=f"{first} and {second} may be one class: their samples cannot be told apart well "
                f"(overlap {each.overlap:.2f}).",
            )


def _labels(
    kind: str, score_N: NDArray[np.float64], alternative_N: NDArray[np.int64], rows: list[int], samples: Samples
) -> Iterator[Finding]:
    for row in rows:
        sample_id, label, probability = samples.ids[row], samples.labels[row], float(score_N[row])
        suggested = samples.classes[int(alternative_N[row])]
        yield Finding(
            finding_id=finding_id(kind, sample_id, label),
            kind=kind,
            sample_id=sample_id,
            label=label,
            other_label=suggested,
            severity=probability,
            summary=f"{sample_id} is labelled {label}, wrongly with probability {probability:.2f}; "
            f"most likely it is {suggested}.",
        )


def _pair(kind: str, first: Member, other: Member, told: str) -> Finding:
    ids = (first.sample_id, other.sample_id) if kind == "leak" else sorted((first.sample_id, other.sample_id))
    how = "" if first.exact and other.exact else f" (similarity {other.similarity:.4f})"
    words = told.format(other=other.sample_id, labels=f"{first.label} and {other.label}")
    return Finding(
        finding_id=finding_id(kind, *ids),
        kind=kind,
        sample_id=ids[0],
        other_id=ids[1],
        label=first.label if ids[0] == first.sample_id else other.label,
        other_label=other.label if ids[0] == first.sample_id else first.label,
        severity=max(0.0, min(1.0, other.similarity)),
        summary=f"{first.sample_id} {words}{how}.",
    )
