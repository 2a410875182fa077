"""From messages about verdicts and differences to what the client hands out, and back."""

from __future__ import annotations

from eif.influence.v1 import audit_pb2

from services.client.gate import AuditVerdict, Change, ChangeCount, FindingChange, RuleResult, Verdict

_VERDICTS = {
    audit_pb2.VERDICT_PASS: Verdict.PASS,
    audit_pb2.VERDICT_WARN: Verdict.WARN,
    audit_pb2.VERDICT_FAIL: Verdict.FAIL,
}
_CHANGES = {
    audit_pb2.FindingChange.CHANGE_NEW: Change.NEW,
    audit_pb2.FindingChange.CHANGE_FIXED: Change.FIXED,
    audit_pb2.FindingChange.CHANGE_PERSISTING: Change.PERSISTING,
}
CHANGE_VALUES = {change: value for value, change in _CHANGES.items()}


def verdict_of(message: audit_pb2.AuditVerdict) -> AuditVerdict:
    """A verdict."""
    return AuditVerdict(
        verdict=_VERDICTS.get(message.verdict, Verdict.UNKNOWN),
        rules=tuple(map(_rule, message.rules)),
        changes=tuple(map(count_of, message.changes)),
        new_findings=tuple(map(change_of, message.new_findings)),
        audit=message.audit,
        baseline=message.baseline,
        policy_version=message.policy_version,
        policy_sha256=message.policy_sha256,
        figures=dict(message.figures),
        baseline_figures=dict(message.baseline_figures),
    )


def count_of(message: audit_pb2.ChangeCount) -> ChangeCount:
    """How many of a kind have changed."""
    return ChangeCount(
        kind=message.kind,
        new=message.new_findings,
        fixed=message.fixed_findings,
        persisting=message.persisting_findings,
    )


def change_of(message: audit_pb2.FindingChange) -> FindingChange:
    """A finding and what became of it."""
    return FindingChange(
        change=_CHANGES.get(message.change, Change.UNKNOWN),
        finding_id=message.finding_id,
        kind=message.kind,
        sample_id=message.sample_id,
        other_id=message.other_id,
        label=message.label,
        other_label=message.other_label,
        severity=message.severity,
        summary=message.summary,
    )


def _rule(message: audit_pb2.RuleResult) -> RuleResult:
    return RuleResult(
        rule=message.rule,
        verdict=_VERDICTS.get(message.verdict, Verdict.UNKNOWN),
        message=message.message,
        subject=message.subject,
        value=message.value if message.HasField("value") else None,
        baseline_value=message.baseline_value if message.HasField("baseline_value") else None,
        limit=message.limit,
        not_applicable=message.not_applicable,
    )
