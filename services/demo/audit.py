"""The audit of the demo's model: one job, its report, and what the gate says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from services.client.gate import AuditVerdict
from services.client.influence import InfluenceClient
from services.client.jobs import Job
from services.demo.publish import Published
from services.demo.steps import Steps
from services.demo.watching import follow

PAGE = "audit.html"
POLICY = """
version: 1
rules:
  - {name: wrong-labels, figure: estimated_noise, max: 0.05, because: over a twentieth of the labels look wrong}
  - {name: leaks, findings: leak, max_count: 0, because: a test image is among the training images}
"""
"""The gate of a first audit, which has nothing to be compared with."""


@dataclass(frozen=True, kw_only=True)
class Audited:
    """What an audit found.

    Attributes:
        job: Done.
        flagged: Suggested label by id, of the training samples whose label looks wrong, the most doubtful first.
        verdict: Of the gate.
        seconds: From its submission to the verdict.
    """

    job: Job
    flagged: dict[str, str]
    verdict: AuditVerdict
    seconds: float

    def figure(self, name: str) -> float:
        """A figure of the audit; 0 where it has none."""
        return self.job.output.figures.get(name, 0.0) if self.job.output else 0.0


def audit(client: InfluenceClient, published: Published, steps: Steps, out: Path) -> Audited:
    """Audit, save the report as `audit.html`, and let the gate judge."""
    with steps.step("audit the model and its data") as auditing:
        submitted = client.audit(
            model=published.model,
            train=published.train_manifest,
            test=published.test_manifest,
            group_by=["source"],
        )
        job = follow(client, submitted, auditing)
        client.save_file(job, "report.html", out / PAGE)
        rows = client.read_table(job, "issues").to_pylist()
        flagged = {row["sample_id"]: row["suggested_label"] for row in rows if row["flagged"]}
        auditing.note = f"{len(flagged):,} labels look wrong"
    with steps.step("let the gate judge") as judging:
        verdict = client.evaluate_audit(job, policy=POLICY)
        broken = [rule.message for rule in verdict.rules if rule.verdict != "PASS"]
        judging.note = f"{verdict.verdict}: {'; '.join(broken) or 'every rule holds'}"
    return Audited(job=job, flagged=flagged, verdict=verdict, seconds=auditing.seconds + judging.seconds)
