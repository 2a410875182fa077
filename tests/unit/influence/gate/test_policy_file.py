"""Policies: what is read, what is refused and how, and that nothing else ever happens."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]  # its stubs are in no extra
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.errors import ServiceError
from services.influence.gate.policy import FigureRule, FindingsRule, policy_schema
from services.influence.gate.policy_file import MAX_BYTES, default_policy, read_policy

REPO = Path(__file__).resolve().parents[4]
SCHEMA = REPO / "docs" / "reference" / "policy.schema.json"


def rules(*lines: str) -> str:
    return "version: 1\nrules:\n" + "\n".join(f"  - {{{line}}}" for line in lines)


def refusal(text: str) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        read_policy(text)
    assert caught.value.reason == "POLICY_INVALID"
    return caught.value


class TestWhatIsRead:
    def test_rules_come_as_they_are_written(self) -> None:
        text = rules(
            "name: floor, figure: recall_at_1, min: 0.8, level: warn, because: it was promised",
            "name: drop, figure: recall_at_16, max_drop: 2.5 %, required: true",
            "name: leaks, findings: leak, max_new: 3, min_severity: 0.25",
        )
        applied = read_policy(text)
        floor, drop, leaks = applied.policy.rules
        assert isinstance(floor, FigureRule)
        assert (floor.name, floor.min, floor.level, floor.because) == ("floor", 0.8, "warn", "it was promised")
        assert isinstance(drop, FigureRule)
        assert (drop.max_drop, drop.level, drop.required, drop.limit_name) == ("2.5 %", "fail", True, "max_drop")
        assert isinstance(leaks, FindingsRule)
        assert (leaks.findings, leaks.max_new, leaks.max_count, leaks.min_severity) == ("leak", 3, None, 0.25)
        assert applied.sha256 == hashlib.sha256(text.encode()).hexdigest()

    def test_without_one_it_is_the_default(self) -> None:
        applied = read_policy("")
        assert applied == read_policy(default_policy())
        assert {rule.level for rule in applied.policy.rules} == {"fail", "warn"}
        assert all(rule.because for rule in applied.policy.rules)

    def test_the_default_explains_every_field(self) -> None:
        comments = "\n".join(line for line in default_policy().splitlines() if line.startswith("#"))
        fields = {*FigureRule.model_fields, *FindingsRule.model_fields, "version"} - {"name", "version"}
        assert [field for field in fields if field not in comments] == []

    def test_a_policy_as_large_as_may_be(self) -> None:
        head = rules("name: a, figure: leaks, max: 0")
        assert read_policy(head + "\n#" + "x" * (MAX_BYTES - len(head) - 2)).policy.rules
        assert "over the limit of 65,536" in str(refusal(head + "\n#" + "x" * (MAX_BYTES - len(head) - 1)))


class TestTheSchema:
    def test_the_committed_one_is_that_of_the_program(self) -> None:
        assert json.loads(SCHEMA.read_text()) == policy_schema(), "write it anew: json.dumps(policy_schema(), indent=2)"

    def test_it_accepts_the_default(self) -> None:
        jsonschema.validate(yaml.safe_load(default_policy()), policy_schema())

    @pytest.mark.parametrize(
        "line",
        [
            "name: a, figure: leaks, min: 1, max: 2",
            "name: a, figure: leaks",
            "name: a, figure: no_such, min: 1",
            "name: a, findings: leak, max_new: -1",
            "name: a, findings: leak, max_new: 1, colour: red",
            "name: a, figure: leaks, max_drop: 5 percent",
        ],
    )
    def test_it_refuses_what_the_program_refuses(self, line: str) -> None:
        refusal(rules(line))
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(yaml.safe_load(rules(line)), policy_schema())


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("# nothing", "policy: it is empty; `eif gate --show-policy`"),
            ("just words", "policy, line 1: a policy is a mapping"),
            ("- a list", "policy, line 1: a policy is a mapping"),
            ("rules: []", "policy, line 1, version: it is required"),
            ("version: 1", "policy, line 1, rules: it is required"),
            ("version: 2\nfuture: thing", "policy, line 1, version: this server reads policies of version 1, not 2"),
            ("version: 1\nrules: []", "policy, line 2, rules: a policy has at least one rule"),
            ("version: 1\nversion: 1", "policy, line 2: 'version' is given twice"),
            ("version: 1\nrules: [", "policy, line 2: it is not valid YAML"),
            ("version: 1\n---\nversion: 1", "policy, line 2: it is not valid YAML"),
            ("a: &x 1\nb: *x", "policy, line 1: anchors (&) and aliases (*) are not read"),
            ("a: *x", "policy, line 1: anchors (&) and aliases (*) are not read"),
            ("a: " + "[" * 20_000, "policy, line 1: it is nested more than 8 deep"),
            ("a: !!python/object/apply:os.system [ls]", "policy, line 1: it is not valid YAML"),
            ("a: 2001-99-99", "policy: it is not valid YAML"),
            ("a: \x00", "policy: it is not valid YAML"),
            (rules("name: a, figure: recal_at_1, min: 1"), "line 3, rule a, figure: 'recal_at_1' is not a figure; did"),
            (rules("name: a, figure: recall_at_0, min: 1"), "'recall_at_0' is not a figure"),
            (rules("name: a, findings: leaks, max_new: 1"), "'leaks' is not a kind of finding; did you mean leak?"),
            (rules("name: a, figure: leaks, max: 0, mni: 3"), "line 3, rule a, mni: there is no such field"),
            (rules("name: a, figure: leaks, findings: leak, max: 0"), "rule a: a rule is a mapping with `figure` or"),
            (rules("name: a, max: 0"), "rule a: a rule is a mapping with `figure` or `findings`, one of the two"),
            (rules("figure: leaks, max: 0"), "line 3, rule number 1, name: it is required"),
            (rules("name: Nö, figure: leaks, max: 0"), "rule Nö, name"),
            (rules("name: a, figure: leaks"), "it has none"),
            (rules("name: a, figure: leaks, min: 0, max_rise: 1"), "it has min and max_rise: write a rule for each"),
            (rules("name: a, figure: leaks, max: .nan"), "rule a, max: Input should be a finite number"),
            (rules("name: a, figure: leaks, max: '3'"), "rule a, max"),
            (rules("name: a, figure: leaks, max_drop: -1"), "rule a, max_drop: write a number of at least 0"),
            (rules("name: a, figure: leaks, max_rise: five"), "rule a, max_rise: write a number of at least 0"),
            (rules("name: a, findings: leak, max_new: yes"), "rule a, max_new"),
            (rules("name: a, findings: leak, max_new: 1.5"), "rule a, max_new"),
            (rules("name: a, findings: leak, max_new: 0, min_severity: 2"), "rule a, min_severity"),
            (rules("name: a, figure: leaks, max: 0, level: stop"), "rule a, level"),
            (rules("name: a, figure: leaks, max: 0, required: 1"), "rule a, required"),
            (rules('name: a, figure: leaks, max: 0, because: "a\\nb"'), "rule a, because: has a control character"),
            (rules(*["name: a, figure: leaks, max: 0"] * 2), "policy, line 1: two rules are named a"),
            (
                rules(*[f"name: r{number}, figure: leaks, max: 0" for number in range(257)]),
                "rules: a policy has at most 256 rules",
            ),
        ],
    )
    def test_it_says_where_and_why(self, text: str, said: str) -> None:
        assert said in str(refusal(text))

    def test_the_place_is_in_the_metadata(self) -> None:
        error = refusal(rules("name: ok, figure: leaks, max: 0", "name: bad, figure: leaks, max: 0, x: 1"))
        assert error.metadata == {"line": "4", "rule": "bad", "field": "x"}

    @settings(deadline=None)
    @given(
        st.text(max_size=300)
        | st.text(alphabet="version: 1\nrules-{}[],&*!?|>'\"#%@` namefigurelks", max_size=300).map(
            "version: 1\n".__add__
        )
    )
    def test_any_text_is_read_or_refused(self, text: str) -> None:
        try:
            read_policy(text)
        except ServiceError as error:
            assert error.reason == "POLICY_INVALID"  # noqa: PT017  both ends are fine, nothing else is

    @settings(deadline=None)
    @given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=5))
    def test_any_value_of_a_field_is_read_or_refused(self, value: object) -> None:
        document = {"version": 1, "rules": [{"name": "a", "figure": "leaks", "max": value}]}
        try:
            read_policy(yaml.safe_dump(document))
        except ServiceError as error:
            assert error.reason == "POLICY_INVALID"  # noqa: PT017  both ends are fine, nothing else is
        else:
            assert isinstance(value, int | float)
