"""JUnit XML and Markdown of verdicts: well-formed whatever the text of a data set, and with everything in them."""

from __future__ import annotations

import html
import re
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.client.cli.gate import is_closed
from services.client.cli.gate_reports import junit, markdown
from services.client.gate import AuditVerdict, Change, ChangeCount, FindingChange, RuleResult, Verdict


def rule(name: str, verdict: Verdict, message: str = "said", **fields: object) -> RuleResult:
    values: dict[str, object] = {
        "subject": "leak",
        "value": 2.0,
        "baseline_value": None,
        "limit": 1.0,
        "not_applicable": False,
    }
    return RuleResult(rule=name, verdict=verdict, message=message, **(values | fields))  # type: ignore[arg-type]  # by name


def change(text: str = "x") -> FindingChange:
    return FindingChange(
        change=Change.NEW,
        finding_id=f"leak:{text}",
        kind="leak",
        sample_id=text,
        other_id="",
        label=text,
        other_label=text,
        severity=0.75,
        summary=text,
    )


def verdict_of(*rules: RuleResult, findings: tuple[FindingChange, ...] = (), audit: str = "a") -> AuditVerdict:
    return AuditVerdict(
        verdict=Verdict.FAIL,
        rules=rules,
        changes=(ChangeCount(kind="leak", new=1, fixed=2, persisting=3),),
        new_findings=findings,
        audit=audit,
        baseline="b",
        policy_version=1,
        policy_sha256="0" * 64,
        figures={"leaks": 2.0},
        baseline_figures={},
    )


EVERY_KIND = verdict_of(
    rule("held", Verdict.PASS),
    rule("warned", Verdict.WARN),
    rule("failed", Verdict.FAIL, "2 leaks, but none may be"),
    rule("skipped", Verdict.PASS, "no baseline", not_applicable=True, value=None),
    rule("missed", Verdict.FAIL, "required", not_applicable=True, value=None, subject="outlier"),
    findings=(change("first"), change("second")),
)


class TestJUnit:
    @pytest.mark.parametrize(
        ("strict", "failures"), [(False, {"failed", "missed"}), (True, {"warned", "failed", "missed"})]
    )
    def test_a_test_case_a_rule(self, failures: set[str], *, strict: bool) -> None:
        suites = ET.fromstring(junit(EVERY_KIND, strict=strict))  # noqa: S314  our own
        (suite,) = suites
        cases = suite.findall("testcase")
        assert [case.get("name") for case in cases] == ["held", "warned", "failed", "skipped", "missed"]
        assert {case.get("name") for case in cases if case.find("failure") is not None} == failures
        assert [case.get("name") for case in cases if case.find("skipped") is not None] == ["skipped"]
        for element in (suites, suite):
            assert (element.get("tests"), element.get("failures")) == ("5", str(len(failures)))
            assert (element.get("skipped"), element.get("errors")) == ("1", "0")

    def test_the_new_findings_stand_with_their_rule(self) -> None:
        suites = ET.fromstring(junit(EVERY_KIND, strict=False))  # noqa: S314  our own
        failed, missed = suites.iter("failure")
        assert (failed.text or "").split("\n") == ["2 leaks, but none may be", "0.75 first", "0.75 second"]
        assert missed.text == "required"
        facts = {one.get("name"): one.get("value") for one in suites.iter("property")}
        assert (facts["verdict"], facts["audit"], facts["figure.leaks"]) == ("FAIL", "a", "2.0")

    @settings(deadline=None)
    @given(st.text(st.characters(codec=None), max_size=40))
    def test_any_text_is_well_formed(self, text: str) -> None:
        verdict = verdict_of(rule(text, Verdict.FAIL, text), findings=(change(text),), audit=text)
        data = junit(verdict, strict=True).encode()
        (suite,) = ET.fromstring(data)  # noqa: S314  our own
        (case,) = suite.findall("testcase")
        if text.isascii() and text.isprintable():
            assert (suite.get("name"), case.get("name")) == (text, text)


class TestMarkdown:
    def test_everything_is_there(self) -> None:
        page = markdown(EVERY_KIND)
        assert page.startswith("## eif gate: FAIL\n")
        assert "Audit a against b, policy 000000000000." in page
        rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line[:1] == "|"]
        assert ["**FAIL**", "failed", "2", "", "1", "2 leaks, but none may be"] in rows
        assert ["not applicable", "skipped", "", "", "1", "no baseline"] in rows
        assert ["0.75", "leak", "first", "first"] in rows
        assert ["leak", "1", "2", "3"] in rows

    @settings(deadline=None)
    @given(st.text(st.characters(codec=None), max_size=60))
    def test_no_text_breaks_out_of_its_cell(self, text: str) -> None:
        plain = markdown(verdict_of(rule("r", Verdict.FAIL, "x"), findings=(change("x"),)))
        page = markdown(verdict_of(rule("r", Verdict.FAIL, text), findings=(change(text),)))
        pipes = [len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in page.splitlines()]
        assert pipes == [line.count("|") for line in plain.splitlines()]
        assert "<" not in page
        page.encode()

    @pytest.mark.parametrize(
        "text", ["<script>", "[x](http://y)", "`rm`", "**b**", "a|b", "@someone", "![i](j)", "&lt;"]
    )
    def test_text_is_shown_as_it_is(self, text: str) -> None:
        page = markdown(verdict_of(rule("r", Verdict.FAIL, text)))
        cell = next(line for line in page.splitlines() if line.startswith("| **FAIL**")).rpartition("| 1 | ")[2][:-2]
        assert html.unescape(re.sub(r"\\(.)", r"\1", cell)) == text
        assert not re.search(r"(?<!\\)[*`\[\]@!|]", cell)

    def test_long_text_is_cut(self) -> None:
        page = markdown(verdict_of(rule("r", Verdict.FAIL, "x" * 10_000)))
        assert "x" * 300 + "..." in page
        assert "x" * 301 not in page


@pytest.mark.parametrize(
    ("verdict", "closed", "closed_strictly"),
    [
        (Verdict.PASS, False, False),
        (Verdict.WARN, False, True),
        (Verdict.FAIL, True, True),
        (Verdict.UNKNOWN, True, True),
    ],
)
def test_what_closes_a_gate(verdict: Verdict, *, closed: bool, closed_strictly: bool) -> None:
    from dataclasses import replace

    judged = replace(EVERY_KIND, verdict=verdict)
    assert (is_closed(judged, strict=False), is_closed(judged, strict=True)) == (closed, closed_strictly)
