"""Calls that judge and compare audits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from eif.influence.v1 import influence_service_pb2

from services.client.gate import AuditDifferences, AuditVerdict, Change, FindingChange
from services.client.gate_converters import CHANGE_VALUES, change_of, count_of, verdict_of
from services.client.influence_calls import InfluenceCalls
from services.client.jobs import Job


class AuditCalls(InfluenceCalls):
    """Judges audits by a policy, and compares them."""

    def evaluate_audit(self, job: Job | str, *, baseline: Job | str | None = None, policy: str = "") -> AuditVerdict:
        """Judge a succeeded audit by a policy (docs/gate.md).

        Args:
            job: The audit.
            baseline: The audit to compare with; rules about changes need one.
            policy: YAML; empty is the default policy of the server.
        """
        request = influence_service_pb2.EvaluateAuditRequest(
            name=self._name(job), baseline="" if baseline is None else self._name(baseline), policy=policy
        )
        return verdict_of(self._connection.call(self._stub.EvaluateAudit, request))

    def compare_audits(
        self,
        job: Job | str,
        baseline: Job | str,
        *,
        changes: Sequence[Change] = (Change.NEW, Change.FIXED),
        kinds: Sequence[str] = (),
        page_size: int = 0,
    ) -> AuditDifferences:
        """What is new, fixed and persisting between two succeeded audits; pages are fetched as needed.

        Args:
            job: The audit.
            baseline: The earlier one.
            changes: Only these.
            kinds: Only findings of these kinds, such as `label_issue`; all by default.
            page_size: Findings fetched at once; 0 is the server's default.
        """
        request = influence_service_pb2.CompareAuditsRequest(
            name=self._name(job),
            baseline=self._name(baseline),
            changes=[CHANGE_VALUES[change] for change in changes],
            kinds=kinds,
            page_size=page_size,
        )
        first = self._connection.call(self._stub.CompareAudits, request)
        return AuditDifferences(counts=tuple(map(count_of, first.counts)), changes=self._changes(request, first))

    def _changes(
        self,
        request: influence_service_pb2.CompareAuditsRequest,
        page: influence_service_pb2.CompareAuditsResponse,
    ) -> Iterator[FindingChange]:
        while True:
            yield from map(change_of, page.changes)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token
            page = self._connection.call(self._stub.CompareAudits, request)
