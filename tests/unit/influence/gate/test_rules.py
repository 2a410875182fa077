"""Rules against figures and counts of which the answer is known."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.influence.gate.policy import FigureRule, Policy
from services.influence.gate.rules import Evidence, apply_policy
from services.influence.gate.verdict import RuleResult, Verdict, worst

PASS, WARN, FAIL = Verdict.PASS, Verdict.WARN, Verdict.FAIL


@dataclass
class Found:
    """Findings as (kind, severity, is new)."""

    rows: list[tuple[str, float, bool]] = field(default_factory=list)
    has_baseline: bool = True

    def count(self, kind: str, *, min_severity: float) -> int:
        return sum(row[0] == kind and row[1] >= min_severity for row in self.rows)

    def count_new(self, kind: str, *, min_severity: float) -> int | None:
        new = sum(row[0] == kind and row[1] >= min_severity and row[2] for row in self.rows)
        return new if self.has_baseline else None


def applied(
    rule: dict[str, Any],
    figures: dict[str, float] | None = None,
    baseline: dict[str, float] | None = None,
    findings: Found | None = None,
) -> RuleResult:
    policy = Policy.model_validate({"version": 1, "rules": [{"name": "r", **rule}]})
    (result,) = apply_policy(
        policy, Evidence(figures=figures or {}, baseline=baseline, findings=findings or Found(has_baseline=False))
    )
    assert result.rule == "r"
    return result


class TestAbsolute:
    @pytest.mark.parametrize(
        ("limit", "value", "verdict"),
        [
            ({"min": 0.8}, 0.8, PASS),
            ({"min": 0.8}, 0.79, FAIL),
            ({"max": 0.8}, 0.8, PASS),
            ({"max": 0.8}, 0.81, FAIL),
            ({"max": 0}, 0.0, PASS),
            ({"max": 0}, 1.0, FAIL),
            ({"min": 0}, -0.5, FAIL),
            ({"max": 0, "level": "warn"}, 1.0, WARN),
        ],
    )
    def test_limits_belong_to_what_is_allowed(self, limit: dict[str, Any], value: float, verdict: Verdict) -> None:
        result = applied({"figure": "recall_at_1", **limit}, {"recall_at_1": value})
        assert (result.verdict, result.value, result.subject) == (verdict, value, "recall_at_1")
        assert result.limit == next(iter(limit.values()))
        assert result.baseline_value is None
        assert not result.not_applicable

    def test_the_reason_stands_where_a_rule_is_broken(self) -> None:
        rule = {"figure": "leaks", "max": 2, "because": "recall would be a lie"}
        broken = applied(rule, {"leaks": 3.0}).message
        assert broken == "leaks is 3, but the rule asks for at most 2 (recall would be a lie)"
        assert applied(rule, {"leaks": 1.0}).message == "leaks is 1; the rule asks for at most 2"


class TestAgainstTheBaseline:
    @pytest.mark.parametrize(
        ("limit", "before", "value", "verdict", "bound"),
        [
            ({"max_drop": 0.1}, 0.9, 0.8, PASS, 0.8),
            ({"max_drop": 0.1}, 0.9, 0.7999, FAIL, 0.8),
            ({"max_drop": 0.1}, 0.3, 0.2, PASS, 0.2),
            ({"max_drop": 0}, 0.9, 0.95, PASS, 0.9),
            ({"max_drop": "10%"}, 0.5, 0.45, PASS, 0.45),
            ({"max_drop": "10%"}, 0.5, 0.4499, FAIL, 0.45),
            ({"max_rise": "50 %"}, 10, 15, PASS, 15),
            ({"max_rise": "50 %"}, 10, 16, FAIL, 15),
            ({"max_rise": "50%"}, 0, 1, FAIL, 0),
            ({"max_rise": 0.2}, 0.1, 0.3, PASS, 0.3),
            ({"max_drop": "50%"}, -2, -3, PASS, -3),
            ({"max_drop": "50%"}, -2, -3.1, FAIL, -3),
        ],
    )
    def test_moves_are_measured_as_written(
        self, limit: dict[str, Any], before: float, value: float, verdict: Verdict, bound: float
    ) -> None:
        result = applied({"figure": "map_at_r", **limit}, {"map_at_r": value}, {"map_at_r": before})
        assert (result.verdict, result.value, result.baseline_value) == (verdict, value, before)
        assert result.limit == bound

    def test_it_says_what_was_before(self) -> None:
        result = applied({"figure": "map_at_r", "max_drop": "2%"}, {"map_at_r": 0.5}, {"map_at_r": 0.75})
        assert result.message == "map_at_r is 0.5, but the rule asks for at most 2% below the baseline's 0.75"

    @settings(deadline=None)
    @given(
        before=st.integers(0, 10_000),
        value=st.integers(0, 10_000),
        room=st.integers(0, 10_000),
        drop=st.booleans(),
        share=st.booleans(),
    )
    def test_decimals_are_exact(self, before: int, value: int, room: int, *, drop: bool, share: bool) -> None:
        """By fractions of ten thousand, in which nothing is rounded."""
        name = "max_drop" if drop else "max_rise"
        rule = {"figure": "map_at_r", name: f"{room / 100}%" if share else room / 10_000}
        result = applied(rule, {"map_at_r": value / 10_000}, {"map_at_r": before / 10_000})
        moved = before - value if drop else value - before
        allowed = Fraction(before * room, 10_000) if share else Fraction(room)
        assert (result.verdict is PASS) == (moved <= allowed)


class TestFindings:
    FOUND = Found([("leak", 0.9, True), ("leak", 0.5, True), ("leak", 0.9, False), ("class", 1.0, True)])

    @pytest.mark.parametrize(
        ("rule", "verdict", "count"),
        [
            ({"max_new": 2}, PASS, 2),
            ({"max_new": 1}, FAIL, 2),
            ({"max_new": 1, "min_severity": 0.9}, PASS, 1),
            ({"max_count": 3}, PASS, 3),
            ({"max_count": 2}, FAIL, 3),
            ({"max_count": 2, "level": "warn"}, WARN, 3),
            ({"max_count": 2, "min_severity": 0.6}, PASS, 2),
        ],
    )
    def test_they_are_counted(self, rule: dict[str, Any], verdict: Verdict, count: int) -> None:
        result = applied({"findings": "leak", **rule}, findings=self.FOUND)
        assert (result.verdict, result.value, result.subject) == (verdict, count, "leak")
        assert result.limit == next(iter(rule.values()))

    def test_the_message_says_which(self) -> None:
        rule = {"findings": "leak", "max_new": 0, "min_severity": 0.9}
        said = "1 new leak findings of severity 0.9 and above, but the rule asks for at most 0"
        assert applied(rule, findings=self.FOUND).message == said


class TestNotApplicable:
    @pytest.mark.parametrize(
        ("rule", "figures", "baseline", "said", "limit"),
        [
            ({"figure": "leaks", "max": 3}, {}, None, "the audit has no figure leaks", 3),
            ({"figure": "leaks", "max": 3}, {"leaks": math.nan}, None, "the audit has no figure leaks", 3),
            ({"figure": "leaks", "max": 3}, {"leaks": math.inf}, None, "the audit has no figure leaks", 3),
            ({"figure": "leaks", "max_rise": "5%"}, {"leaks": 1.0}, None, "there is no baseline", 0.05),
            ({"figure": "leaks", "max_drop": 2}, {"leaks": 1.0}, {}, "the baseline has no figure leaks", 2),
            ({"findings": "leak", "max_new": 4}, {}, None, "there is no baseline", 4),
        ],
    )
    @pytest.mark.parametrize("required", [False, True])
    def test_it_passes_unless_it_is_required(
        self,
        rule: dict[str, Any],
        figures: dict[str, float],
        baseline: dict[str, float] | None,
        said: str,
        limit: float,
        *,
        required: bool,
    ) -> None:
        result = applied({**rule, "required": required, "because": "we promised"}, figures, baseline)
        assert result.not_applicable
        assert result.verdict is (FAIL if required else PASS)
        assert (said in result.message, "we promised" in result.message) == (True, required)
        assert result.limit == limit

    def test_the_level_holds_there_too(self) -> None:
        assert applied({"figure": "leaks", "max": 0, "level": "warn", "required": True}).verdict is WARN


def test_the_worst_decides() -> None:
    assert worst([]) is PASS
    assert worst([PASS, WARN]) is WARN
    assert worst([WARN, FAIL, PASS]) is FAIL


def test_rules_keep_their_order_and_their_names() -> None:
    rules = [{"name": f"r{number}", "figure": "leaks", "max": number} for number in (3, 1, 2)]
    policy = Policy.model_validate({"version": 1, "rules": rules})
    results = apply_policy(policy, Evidence(figures={"leaks": 2.0}, baseline=None, findings=Found()))
    assert [(result.rule, result.verdict) for result in results] == [("r3", PASS), ("r1", FAIL), ("r2", PASS)]
    assert all(isinstance(rule, FigureRule) for rule in policy.rules)
