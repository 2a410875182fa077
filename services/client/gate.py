"""What a policy says of an audit, and what changed between two audits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """The answer of a gate."""

    PASS = "PASS"  # noqa: S105 - no password
    WARN = "WARN"
    FAIL = "FAIL"
    UNKNOWN = "UNKNOWN"
    """A value of a newer server. It is not a pass."""


class Change(StrEnum):
    """What became of a finding since the baseline."""

    NEW = "new"
    FIXED = "fixed"
    PERSISTING = "persisting"
    UNKNOWN = "unknown"
    """A value of a newer server."""


@dataclass(frozen=True, kw_only=True)
class RuleResult:
    """A rule and whether it holds.

    Attributes:
        rule: Its name in the policy.
        verdict: PASS, WARN or FAIL.
        message: What was found and what the rule asks for.
        subject: The figure or the kind of finding that it is about.
        value: Of the figure, or the number of findings; None where there is none.
        baseline_value: Of the baseline, where the rule compares figures.
        limit: What `value` may be at most, or at least.
        not_applicable: The audit has no such figure, or there is no baseline.
    """

    rule: str
    verdict: Verdict
    message: str
    subject: str
    value: float | None
    baseline_value: float | None
    limit: float
    not_applicable: bool


@dataclass(frozen=True, kw_only=True)
class ChangeCount:
    """How many findings of a kind are new, fixed and persisting."""

    kind: str
    new: int
    fixed: int
    persisting: int


@dataclass(frozen=True, kw_only=True, slots=True)
class FindingChange:
    """A finding, and what became of it since the baseline.

    Attributes:
        change: What became of it.
        finding_id: The same in every audit that finds the same about the same samples.
        kind: `label_issue`, `confusion` and so on.
        sample_id: The sample, or the first of two; empty for findings about classes.
        other_id: The second sample, where there is one.
        label: Label of the first, or the class.
        other_label: The label it should have, or label of the second.
        severity: How sure or how grave, in [0, 1].
        summary: For people.
    """

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
    """What a policy says of an audit.

    Attributes:
        verdict: The worst of the rules.
        rules: Every rule of the policy, in its order.
        changes: Against the baseline, by kind; empty without one.
        new_findings: Those that break a rule, the most severe first; at most 100.
        audit: Name of the audit.
        baseline: Name of the baseline; empty without one.
        policy_version: `version` of the policy.
        policy_sha256: Of its text, hex.
        figures: Of the audit, by name.
        baseline_figures: Of the baseline.
    """

    verdict: Verdict
    rules: tuple[RuleResult, ...]
    changes: tuple[ChangeCount, ...]
    new_findings: tuple[FindingChange, ...]
    audit: str
    baseline: str
    policy_version: int
    policy_sha256: str
    figures: dict[str, float]
    baseline_figures: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class AuditDifferences:
    """The differences between two audits.

    Attributes:
        counts: How many findings of each kind have changed.
        changes: New ones first, then fixed, then persisting; within each by kind and finding id. Read once; pages
            are fetched as needed.
    """

    counts: tuple[ChangeCount, ...]
    changes: Iterator[FindingChange]
