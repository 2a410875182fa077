"""What people are to look at: samples of a manifest with the findings of an audit about them.

Works on the tables of an audit as Arrow (docs/audit.md has their columns).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from services.client.roundtrip.errors import RoundTripError
from services.client.roundtrip.records import Record

if TYPE_CHECKING:
    import pyarrow as pa


class Split(StrEnum):
    """Which manifest of an audit."""

    TRAIN = "train"
    TEST = "test"


KINDS: dict[Split, tuple[str, ...]] = {
    Split.TRAIN: ("label_issue", "label_conflict", "duplicate", "leak", "outlier"),
    Split.TEST: ("test_label_issue", "confusion", "leak", "outlier"),
}
"""Kinds of findings about samples of each."""


MAX_NOTES = 8
"""Sentences about one sample: somebody reads them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Suggestion:
    """What an audit says of a label.

    Attributes:
        label: The label that the audit saw.
        label_probability: That it is right.
        suggested_label: The most probable other label; empty without one.
        suggested_probability: That this one is right.
    """

    label: str
    label_probability: float
    suggested_label: str = ""
    suggested_probability: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ReviewItem:
    """A sample to look at.

    Attributes:
        sample_id: Its id.
        label: Its label in the manifest.
        uri: Of its image, or of the tar that holds it.
        member: Its name in the tar; empty without one.
        kinds: Of the findings about it, sorted.
        severity: Of the gravest, in [0, 1].
        notes: A sentence for each finding, at most MAX_NOTES.
        suggestion: What the audit says of its label; None where it says nothing.
    """

    sample_id: str
    label: str
    uri: str
    member: str = ""
    kinds: tuple[str, ...] = ()
    severity: float = 0.0
    notes: tuple[str, ...] = ()
    suggestion: Suggestion | None = None


@dataclass(kw_only=True)
class _Found:
    """What was found about one sample."""

    label: str = ""
    severity: float = 0.0
    kinds: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    def add(self, finding: Mapping[str, Any]) -> None:
        self.severity = max(self.severity, finding["severity"])
        self.kinds.add(finding["kind"])
        if len(self.notes) < MAX_NOTES:
            self.notes.append(finding["summary"])


@dataclass(frozen=True, kw_only=True)
class Review:
    """Samples to look at, the gravest first.

    Attributes:
        items: The samples.
        missing: Samples with findings that the manifest does not have.
        stale: Samples whose label in the manifest is not the one that the audit saw; they are left out.
    """

    items: list[ReviewItem]
    missing: int
    stale: int


def review(
    records: Iterable[Record],
    tables: Mapping[str, pa.Table],
    *,
    split: Split = Split.TRAIN,
    kinds: Collection[str] = (),
    everything: bool = False,
) -> Review:
    """Join an audit with a manifest.

    Args:
        records: Samples of the manifest.
        tables: `findings`; `issues` (train) or `test_issues` (test).
        split: Which manifest it is.
        kinds: Only samples with findings of these kinds; those of KINDS by default.
        everything: Also samples without findings.

    Raises:
        RoundTripError: A kind is not one of this split, or the manifest has none of the samples.
    """
    wanted = _checked(kinds, split)
    found = _findings(tables["findings"], split, wanted)
    suggestions = dict(_suggestions(tables, split, None if everything else found.keys()))
    items: list[ReviewItem] = []
    seen = stale = 0
    for record in records:
        about = found.get(record.sample_id or "")
        seen += about is not None
        suggestion = suggestions.get(record.sample_id or "")
        if suggestion is not None and suggestion.label != record.label:
            stale += 1
        elif about is not None or everything:
            items.append(_item(record, about or _Found(), suggestion))
    if found and not seen:
        raise RoundTripError(
            f"the manifest has none of the {len(found):,} samples with findings: is it the {split} one?"
        )
    items.sort(key=lambda item: (-item.severity, item.sample_id))
    return Review(items=items, missing=len(found) - seen, stale=stale)


def _checked(kinds: Collection[str], split: Split) -> frozenset[str]:
    unknown = sorted(set(kinds) - set(KINDS[split]))
    if unknown:
        raise RoundTripError(f"findings about {split} samples are of kind {', '.join(KINDS[split])}, not {unknown[0]}")
    return frozenset(kinds or KINDS[split])


def _findings(findings: pa.Table, split: Split, kinds: frozenset[str]) -> dict[str, _Found]:
    found: dict[str, _Found] = {}
    for batch in findings.to_batches():
        for finding in batch.to_pylist():
            if finding["kind"] in kinds:
                for sample_id in _samples_of(finding, split):
                    found.setdefault(sample_id, _Found()).add(finding)
    return found


def _samples_of(finding: Mapping[str, Any], split: Split) -> list[str]:
    """The samples of a split that a finding is about; ids alone do not tell, both splits may count from 1."""
    first, second = finding["sample_id"], finding["other_id"]
    match finding["kind"]:
        case "leak":  # its first sample is the training one
            return [first if split is Split.TRAIN else second]
        case "label_conflict" | "duplicate":  # of two training samples
            return [first, second]
        case "outlier":
            return [first] if finding["finding_id"].startswith(f"outlier:{split}:") else []
    return [first]


def _suggestions(
    tables: Mapping[str, pa.Table], split: Split, only: Collection[str] | None
) -> Iterator[tuple[str, Suggestion]]:
    table = tables["issues" if split is Split.TRAIN else "test_issues"]
    names = ["sample_id", "label", "issue_probability", "suggested_label", "suggested_probability"]
    alternatives = ["alternative_label", "alternative_probability"] if split is Split.TRAIN else []
    for batch in table.select([*names, *alternatives]).to_batches():
        for row in batch.to_pylist():
            if only is None or row["sample_id"] in only:
                yield row["sample_id"], _suggestion(row)


def _suggestion(row: Mapping[str, Any]) -> Suggestion:
    """The suggested label, or the next one where that is the label itself."""
    which = "suggested" if row["suggested_label"] != row["label"] else "alternative"
    return Suggestion(
        label=row["label"],
        label_probability=1.0 - row["issue_probability"],
        suggested_label=row.get(f"{which}_label", ""),
        suggested_probability=row.get(f"{which}_probability", 0.0),
    )


def _item(record: Record, found: _Found, suggestion: Suggestion | None) -> ReviewItem:
    return ReviewItem(
        sample_id=record.sample_id or "",
        label=record.label,
        uri=record.uri,
        member=record.member,
        kinds=tuple(sorted(found.kinds)),
        severity=found.severity,
        notes=tuple(found.notes),
        suggestion=suggestion,
    )
