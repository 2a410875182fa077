"""Applies rules. Decimals are compared as they are written: a drop from 0.9 to 0.8 is one of 0.1, not of a bit more."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from services.influence.gate.policy import FigureRule, FindingsRule, Policy
from services.influence.gate.verdict import RuleResult, Verdict

NO_BASELINE = "there is no baseline to compare with"


class FindingCounts(Protocol):
    """Numbers of findings of an audit."""

    def count(self, kind: str, *, min_severity: float) -> int:
        """Those of a kind that are at least so severe."""
        ...

    def count_new(self, kind: str, *, min_severity: float) -> int | None:
        """Those among them that the baseline does not have; None without a baseline."""
        ...


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What rules are applied to; `baseline` is None without one."""

    figures: Mapping[str, float]
    baseline: Mapping[str, float] | None
    findings: FindingCounts


def apply_policy(policy: Policy, evidence: Evidence) -> tuple[RuleResult, ...]:
    """Every rule of a policy, in its order."""
    return tuple(
        _apply_figure(rule, evidence) if isinstance(rule, FigureRule) else _apply_findings(rule, evidence)
        for rule in policy.rules
    )


def _apply_figure(rule: FigureRule, evidence: Evidence) -> RuleResult:
    value = _finite(evidence.figures, rule.figure)
    if value is None:
        return _not_applicable(rule, rule.figure, f"the audit has no figure {rule.figure}")
    if rule.min is not None or rule.max is not None:
        return _absolute(rule, value)
    if evidence.baseline is None:
        return _not_applicable(rule, rule.figure, NO_BASELINE, value=value)
    before = _finite(evidence.baseline, rule.figure)
    if before is None:
        return _not_applicable(rule, rule.figure, f"the baseline has no figure {rule.figure}", value=value)
    return _compared(rule, value, before)


def _absolute(rule: FigureRule, value: float) -> RuleResult:
    if rule.min is not None:
        return _result(rule, rule.figure, value, rule.min, holds=value >= rule.min, asked=f"at least {rule.min:g}")
    limit = rule.max or 0.0
    return _result(rule, rule.figure, value, limit, holds=value <= limit, asked=f"at most {limit:g}")


def _compared(rule: FigureRule, value: float, before: float) -> RuleResult:
    written = rule.max_drop if rule.max_drop is not None else rule.max_rise
    room = _room(written, before)
    drops = rule.max_drop is not None
    limit = _exact(before) - room if drops else _exact(before) + room
    holds = _exact(value) >= limit if drops else _exact(value) <= limit
    asked = f"at most {_written(written)} {'below' if drops else 'above'} the baseline's {before:g}"
    return _result(rule, rule.figure, value, float(limit), holds=holds, asked=asked, before=before)


def _apply_findings(rule: FindingsRule, evidence: Evidence) -> RuleResult:
    if rule.max_new is not None:
        count = evidence.findings.count_new(rule.findings, min_severity=rule.min_severity)
        limit, what = rule.max_new, f"new {rule.findings} findings"
        if count is None:
            return _not_applicable(rule, rule.findings, NO_BASELINE)
    else:
        count = evidence.findings.count(rule.findings, min_severity=rule.min_severity)
        limit, what = rule.max_count or 0, f"{rule.findings} findings"
    severe = f" of severity {rule.min_severity:g} and above" if rule.min_severity else ""
    found = f"{count:,} {what}{severe}"
    return _outcome(rule, rule.findings, count, limit, holds=count <= limit, found=found, asked=f"at most {limit:,}")


def _result(
    rule: FigureRule,
    subject: str,
    value: float,
    limit: float,
    *,
    holds: bool,
    asked: str,
    before: float | None = None,
) -> RuleResult:
    found = f"{subject} is {value:g}"
    return _outcome(rule, subject, value, limit, holds=holds, found=found, asked=asked, before=before)


def _outcome(
    rule: FigureRule | FindingsRule,
    subject: str,
    value: float,
    limit: float,
    *,
    holds: bool,
    found: str,
    asked: str,
    before: float | None = None,
) -> RuleResult:
    verdict = Verdict.PASS if holds else Verdict(rule.level)
    message = (
        f"{found}; the rule asks for {asked}" if holds else f"{found}, but the rule asks for {asked}{_because(rule)}"
    )
    return RuleResult(
        rule=rule.name,
        verdict=verdict,
        message=message,
        subject=subject,
        value=value,
        baseline_value=before,
        limit=limit,
    )


def _not_applicable(
    rule: FigureRule | FindingsRule, subject: str, why: str, *, value: float | None = None
) -> RuleResult:
    broken = f"; the rule requires it{_because(rule)}" if rule.required else "; not applied"
    return RuleResult(
        rule=rule.name,
        verdict=Verdict(rule.level) if rule.required else Verdict.PASS,
        message=f"{why}{broken}",
        subject=subject,
        value=value,
        baseline_value=None,
        limit=_limit_as_written(rule),
        not_applicable=True,
    )


def _because(rule: FigureRule | FindingsRule) -> str:
    return f" ({rule.because})" if rule.because else ""


def _limit_as_written(rule: FigureRule | FindingsRule) -> float:
    """A percentage counts as a share."""
    limit: float | str = getattr(rule, rule.limit_name)
    return float(_share(limit)) if isinstance(limit, str) else float(limit)


def _room(written: float | str | None, before: float) -> Decimal:
    """How far a figure may move from the baseline's."""
    if isinstance(written, str):
        return abs(_exact(before)) * _share(written)
    return _exact(written or 0.0)


def _share(percentage: str) -> Decimal:
    return Decimal(percentage.rstrip("% ")) / 100


def _written(limit: float | str | None) -> str:
    return limit.replace(" ", "") if isinstance(limit, str) else f"{limit or 0.0:g}"


def _exact(value: float) -> Decimal:
    return Decimal(repr(float(value)))


def _finite(figures: Mapping[str, float], name: str) -> float | None:
    value = figures.get(name)
    return value if value is not None and math.isfinite(value) else None
