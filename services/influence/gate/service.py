"""The verbs of InfluenceService that judge and compare audits."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from eif_engine.audit_figures import FIGURES
from services.influence.deleted import unless_deleted
from services.influence.gate.findings import AuditFindings, ChangePage
from services.influence.gate.policy import FindingsRule, finding_kinds
from services.influence.gate.policy_file import AppliedPolicy, read_policy
from services.influence.gate.rules import Evidence, apply_policy
from services.influence.gate.verdict import AuditVerdict, Change, RuleResult, Verdict, worst
from services.influence.job import Job
from services.influence.ledger import Ledger
from services.influence.names import invalid, shown
from services.influence.result_service import DEFAULT_ROWS, MAX_ROWS
from services.influence.results import require_success
from services.influence.spec import AuditSpec
from services.influence.tokens import read_token, write_token

MAX_NEW_FINDINGS = 100
_AT_A_TIME = 2
_FIGURE = re.compile(r"recall_at_\d+|" + "|".join(FIGURES))


@dataclass(frozen=True, kw_only=True)
class EvaluateRequest:
    """Which audit, against which (empty: none), by which policy (YAML; empty: the default one)."""

    name: str
    baseline: str = ""
    policy: str = ""


@dataclass(frozen=True, kw_only=True)
class CompareRequest:
    """Which changes between which audits; no kinds means all."""

    name: str
    baseline: str
    changes: frozenset[Change] = frozenset({Change.NEW, Change.FIXED})
    kinds: frozenset[str] = field(default_factory=frozenset)
    page_size: int = 0
    page_token: str = ""


@dataclass(frozen=True, kw_only=True)
class ComparePage:
    """Changes, and what is needed to go on after some of them."""

    page: ChangePage
    offset: int
    bound_to: tuple[object, ...]

    def next_page_token(self, sent: int) -> str:
        """The token of the page after the first `sent` changes of this one; empty at the end."""
        position = self.offset + sent
        return "" if position >= self.page.total else write_token(position, *self.bound_to)


class GateService:
    """Verdicts and differences.

    Args:
        ledger: The jobs.
        findings: Their findings.
    """

    def __init__(self, *, ledger: Ledger, findings: AuditFindings) -> None:
        self._ledger = ledger
        self._findings = findings
        # Large audits take seconds: those who wait do so here, and not in the threads that other calls need.
        self._turns = asyncio.Semaphore(_AT_A_TIME)

    async def evaluate(self, request: EvaluateRequest) -> AuditVerdict:
        """What a policy says of an audit.

        Raises:
            ServiceError: POLICY_INVALID, JOB_NOT_FOUND, JOB_NOT_SUCCEEDED, ARGUMENT_INVALID for a job that is no
                audit, and those of AuditFindings.
        """
        applied = await asyncio.to_thread(read_policy, request.policy)
        audit = await self._audit(request.name, "name")
        baseline = await self._audit(request.baseline, "baseline") if request.baseline else None
        async with self._turns, unless_deleted(self._ledger, *filter(None, (request.name, request.baseline))):
            return await asyncio.to_thread(self._evaluate, applied, audit, baseline)

    async def compare(self, request: CompareRequest) -> ComparePage:
        """What is new, fixed and persisting. Raises as `evaluate`, and PAGE_TOKEN_INVALID."""
        audit = await self._audit(request.name, "name")
        baseline = await self._audit(request.baseline, "baseline")
        await asyncio.to_thread(_check_kinds, request.kinds)
        bound_to = ("changes", audit.uid, baseline.uid, sorted(request.changes), sorted(request.kinds))
        offset = 0
        if request.page_token:
            offset = read_token(request.page_token, *bound_to, reason="PAGE_TOKEN_INVALID", field="page_token")
        async with self._turns, unless_deleted(self._ledger, request.name, request.baseline):
            page = await asyncio.to_thread(
                self._findings.page,
                audit,
                baseline,
                changes=request.changes,
                kinds=request.kinds,
                offset=offset,
                count=min(request.page_size or DEFAULT_ROWS, MAX_ROWS),
            )
        return ComparePage(page=page, offset=offset, bound_to=bound_to)

    async def _audit(self, name: str, field_name: str) -> Job:
        job = await self._ledger.get(name)
        if not isinstance(job.spec, AuditSpec):
            raise invalid(field_name, f"{job.name} is a {job.spec.kind} job; only audits have a verdict and findings")
        require_success(job)
        return job

    def _evaluate(self, applied: AppliedPolicy, audit: Job, baseline: Job | None) -> AuditVerdict:
        findings = self._findings.of(audit, baseline)
        figures, before = _figures(audit), _figures(baseline) if baseline else None
        results = apply_policy(applied.policy, Evidence(figures=figures, baseline=before, findings=findings))
        return AuditVerdict(
            verdict=worst(result.verdict for result in results),
            rules=results,
            changes=findings.changes(),
            new_findings=findings.worst_new(_broken(applied, results), limit=MAX_NEW_FINDINGS),
            audit=audit.name,
            baseline=baseline.name if baseline else "",
            policy_version=applied.policy.version,
            policy_sha256=applied.sha256,
            figures=figures,
            baseline_figures=before or {},
        )


def _broken(applied: AppliedPolicy, results: tuple[RuleResult, ...]) -> list[tuple[str, float]]:
    """Kind and least severity of the rules over findings that do not hold."""
    return [
        (rule.findings, rule.min_severity)
        for rule, result in zip(applied.policy.rules, results, strict=True)
        if isinstance(rule, FindingsRule) and result.verdict is not Verdict.PASS
    ]


def _figures(job: Job) -> Mapping[str, float]:
    """Those of which rules may speak: not how long things took."""
    figures = require_success(job).manifest.figures
    return {name: value for name, value in figures.items() if _FIGURE.fullmatch(name) and math.isfinite(value)}


def _check_kinds(kinds: frozenset[str]) -> None:
    unknown = sorted(kinds - set(finding_kinds()))
    if unknown:
        raise invalid("kinds", f"{shown(unknown[0])} is not a kind of finding; known are {', '.join(finding_kinds())}")
