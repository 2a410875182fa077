"""Between the protos of verdicts and differences and the domain."""

from __future__ import annotations

from eif.influence.v1 import audit_pb2
from eif.influence.v1 import influence_service_pb2 as service_pb2

from services.influence.converters import read_count, read_job_name
from services.influence.enum_maps import EnumMap
from services.influence.gate.service import ComparePage, CompareRequest, EvaluateRequest
from services.influence.gate.verdict import AuditVerdict, Change, ChangeCount, FindingChange, RuleResult, Verdict
from services.influence.names import parse_job_name
from services.influence.result_converters import MAX_PAGE_BYTES

VERDICTS = EnumMap(
    {
        audit_pb2.VERDICT_PASS: Verdict.PASS,
        audit_pb2.VERDICT_WARN: Verdict.WARN,
        audit_pb2.VERDICT_FAIL: Verdict.FAIL,
    }
)
CHANGES = EnumMap(
    {
        audit_pb2.FindingChange.CHANGE_NEW: Change.NEW,
        audit_pb2.FindingChange.CHANGE_FIXED: Change.FIXED,
        audit_pb2.FindingChange.CHANGE_PERSISTING: Change.PERSISTING,
    }
)


def read_evaluate_request(request: service_pb2.EvaluateAuditRequest) -> EvaluateRequest:
    """Which audit and policy. Raises ARGUMENT_INVALID."""
    baseline = str(parse_job_name(request.baseline, field="baseline")) if request.baseline else ""
    return EvaluateRequest(name=read_job_name(request.name), baseline=baseline, policy=request.policy)


def read_compare_request(request: service_pb2.CompareAuditsRequest) -> CompareRequest:
    """Which audits and changes. Raises ARGUMENT_INVALID."""
    changes = frozenset(CHANGES.read(change, "changes") for change in request.changes)
    return CompareRequest(
        name=read_job_name(request.name),
        baseline=str(parse_job_name(request.baseline, field="baseline")),
        changes=changes or frozenset({Change.NEW, Change.FIXED}),
        kinds=frozenset(request.kinds),
        page_size=read_count(request.page_size, "page_size"),
        page_token=request.page_token,
    )


def write_verdict(verdict: AuditVerdict) -> audit_pb2.AuditVerdict:
    """What a policy says."""
    return audit_pb2.AuditVerdict(
        verdict=VERDICTS.write(verdict.verdict),
        rules=map(_rule, verdict.rules),
        changes=map(_count, verdict.changes),
        new_findings=map(_change, verdict.new_findings),
        audit=verdict.audit,
        baseline=verdict.baseline,
        policy_version=verdict.policy_version,
        policy_sha256=verdict.policy_sha256,
        figures=verdict.figures,
        baseline_figures=verdict.baseline_figures,
    )


def write_changes(page: ComparePage) -> service_pb2.CompareAuditsResponse:
    """As many of the changes as fit into a message, and at least one; the token goes on after them."""
    response = service_pb2.CompareAuditsResponse(counts=map(_count, page.page.counts))
    size = 0
    for change in map(_change, page.page.changes):
        size += change.ByteSize() + 8
        if response.changes and size > MAX_PAGE_BYTES:
            break
        response.changes.append(change)
    response.next_page_token = page.next_page_token(len(response.changes))
    return response


def _rule(result: RuleResult) -> audit_pb2.RuleResult:
    return audit_pb2.RuleResult(
        rule=result.rule,
        verdict=VERDICTS.write(result.verdict),
        message=result.message,
        subject=result.subject,
        value=result.value,
        baseline_value=result.baseline_value,
        limit=result.limit,
        not_applicable=result.not_applicable,
    )


def _count(count: ChangeCount) -> audit_pb2.ChangeCount:
    return audit_pb2.ChangeCount(
        kind=count.kind, new_findings=count.new, fixed_findings=count.fixed, persisting_findings=count.persisting
    )


def _change(change: FindingChange) -> audit_pb2.FindingChange:
    return audit_pb2.FindingChange(
        change=CHANGES.write(change.change),
        finding_id=change.finding_id,
        kind=change.kind,
        sample_id=change.sample_id,
        other_id=change.other_id,
        label=change.label,
        other_label=change.other_label,
        severity=change.severity,
        summary=change.summary,
    )
