"""What a policy says of an audit, and what changed between two."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """The answer of a gate."""

    PASS = "pass"  # noqa: S105  no password
    WARN = "warn"
    FAIL = "fail"


class Change(StrEnum):
    """What became of a finding since the baseline; in the order in which they are listed."""

    NEW = "new"
    FIXED = "fixed"
    PERSISTING = "persisting"


@dataclass(frozen=True, kw_only=True)
class RuleResult:
    """A rule and whether it holds.

    Attributes:
        rule: Its name.
        message: What was found and what the rule asks for, for people.
        subject: The figure or the kind of finding.
        value: Of the figure, or the number of findings; None where there is none.
        baseline_value: Of the baseline, where the rule compares figures.
        limit: What `value` may be at most, or at least; what the rule writes, where it could not be applied.
        not_applicable: There is no such figure, or no baseline.
    """

    rule: str
    verdict: Verdict
    message: str
    subject: str
    value: float | None
    baseline_value: float | None
    limit: float
    not_applicable: bool = False


@dataclass(frozen=True, kw_only=True)
class ChangeCount:
    """How many findings of a kind have changed."""

    kind: str
    new: int
    fixed: int
    persisting: int


@dataclass(frozen=True, kw_only=True)
class FindingChange:
    """A row of `findings`, and what became of it; severity in [0, 1]."""

    change: Change
    finding_id: str
    kind: str
    sample_id: str
    other_id: str
    label: str
    other_label: str
    severity: float
    summary: str


@dataclass(frozen=True, kw_only=True)
class AuditVerdict:
    """What a policy says of an audit; `baseline` is empty without one."""

    verdict: Verdict
    rules: tuple[RuleResult, ...]
    changes: tuple[ChangeCount, ...]
    new_findings: tuple[FindingChange, ...]
    audit: str
    baseline: str
    policy_version: int
    policy_sha256: str
    figures: Mapping[str, float]
    baseline_figures: Mapping[str, float]


_WORST_FIRST = (Verdict.FAIL, Verdict.WARN, Verdict.PASS)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst of them; PASS of none."""
    return min((*verdicts, Verdict.PASS), key=_WORST_FIRST.index)
