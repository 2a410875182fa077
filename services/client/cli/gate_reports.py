"""A verdict for other programs: JUnit XML for what collects tests, Markdown for the pages of CI systems."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from xml.etree import ElementTree as ET

from services.client.cli.formats import cell
from services.client.cli.text import printable
from services.client.gate import AuditVerdict, FindingChange, RuleResult, Verdict

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MARKS = re.compile(r"([\\`*_{}\[\]()#+!|~:@-])")
_MAX_CELL = 300


def junit(verdict: AuditVerdict, *, strict: bool) -> str:
    """JUnit XML: one test case a rule. Broken rules fail, those of level `warn` only when `strict`."""
    cases = [_case(rule, verdict, strict=strict) for rule in verdict.rules]
    counts = {
        "tests": str(len(cases)),
        "failures": str(sum(case.find("failure") is not None for case in cases)),
        "errors": "0",
        "skipped": str(sum(case.find("skipped") is not None for case in cases)),
        "time": "0",
    }
    suites = ET.Element("testsuites", {"name": "eif gate", **counts})
    suite = ET.SubElement(suites, "testsuite", {"name": _xml(verdict.audit), **counts})
    properties = ET.SubElement(suite, "properties")
    facts = {
        "verdict": verdict.verdict,
        "audit": verdict.audit,
        "baseline": verdict.baseline,
        "policy_sha256": verdict.policy_sha256,
        **{f"figure.{name}": repr(value) for name, value in sorted(verdict.figures.items())},
    }
    for name, value in facts.items():
        ET.SubElement(properties, "property", {"name": _xml(name), "value": _xml(value)})
    suite.extend(cases)
    ET.indent(suites)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(suites, encoding="unicode")}\n'


def markdown(verdict: AuditVerdict) -> str:
    """A page: the verdict, the rules, what changed, and the new findings that break a rule."""
    compared = f"against {_text(verdict.baseline)}" if verdict.baseline else "without a baseline"
    parts = [
        f"## eif gate: {verdict.verdict}\n",
        f"Audit {_text(verdict.audit)} {compared}, policy {_text(verdict.policy_sha256[:12])}.\n",
        _table(("verdict", "rule", "value", "baseline", "limit", "message"), map(_rule_cells, verdict.rules)),
    ]
    if verdict.new_findings:
        rows = map(_finding_cells, verdict.new_findings)
        parts += ["### New findings that break a rule\n", _table(("severity", "kind", "sample", "summary"), rows)]
    if verdict.changes:
        counts = [(count.kind, str(count.new), str(count.fixed), str(count.persisting)) for count in verdict.changes]
        parts += ["### Findings since the baseline\n", _table(("kind", "new", "fixed", "persisting"), counts)]
    return "\n".join(parts)


def _case(rule: RuleResult, verdict: AuditVerdict, *, strict: bool) -> ET.Element:
    case = ET.Element("testcase", {"classname": "eif.gate", "name": _xml(rule.rule), "time": "0"})
    fails = rule.verdict not in ({Verdict.PASS} if strict else {Verdict.PASS, Verdict.WARN})
    if fails:
        failure = ET.SubElement(case, "failure", {"type": rule.verdict, "message": _xml(rule.message)})
        found = [change for change in verdict.new_findings if change.kind == rule.subject]
        failure.text = _xml("\n".join([rule.message, *(f"{_severity(one)} {one.summary}" for one in found)]))
    elif rule.not_applicable and rule.verdict is Verdict.PASS:
        ET.SubElement(case, "skipped", {"message": _xml(rule.message)})
    else:
        ET.SubElement(case, "system-out").text = _xml(f"{rule.verdict}: {rule.message}")
    return case


def _rule_cells(rule: RuleResult) -> tuple[str, ...]:
    verdict = "not applicable" if rule.not_applicable and rule.verdict is Verdict.PASS else str(rule.verdict)
    shown = verdict if rule.verdict is Verdict.PASS else f"**{verdict}**"
    return (
        shown,
        _text(rule.rule),
        _number(rule.value),
        _number(rule.baseline_value),
        _number(rule.limit),
        _text(rule.message),
    )


def _finding_cells(change: FindingChange) -> tuple[str, ...]:
    return _severity(change), _text(change.kind), _text(change.sample_id or change.label), _text(change.summary)


def _table(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [columns, tuple("---" for _ in columns), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _text(text: str) -> str:
    """Text of a data set as Markdown that shows it and does nothing else."""
    short = text if len(text) <= _MAX_CELL else f"{text[:_MAX_CELL]}..."
    return html.escape(_MARKS.sub(r"\\\1", printable(short)), quote=False)


def _number(value: float | None) -> str:
    return "" if value is None else cell(value)


def _severity(change: FindingChange) -> str:
    return f"{change.severity:.2f}"


def _xml(text: str) -> str:
    """Without the characters that XML cannot hold; the line breaks of our own stay."""
    lines = (printable(line) for line in text.split("\n"))
    return _NOT_XML.sub("\ufffd", "\n".join(lines))
