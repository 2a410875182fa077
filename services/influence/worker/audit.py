"""An audit: what a retraining loop asks of a model and its data, in one pass over cached features."""

from __future__ import annotations

from services.influence.messages import SucceededMessage
from services.influence.spec import AuditSpec
from services.influence.worker.job import Job

STAGES = ("inputs", "features", "audit", "proof", "report", "results")


def run_audit_job(job: Job, spec: AuditSpec) -> SucceededMessage:
    """Run an audit to its end. Raises EifError, Cancelled."""
    raise NotImplementedError
