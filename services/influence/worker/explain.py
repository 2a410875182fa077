"""An explain job: which parts of two images make them similar."""

from __future__ import annotations

from services.influence.messages import SucceededMessage
from services.influence.spec import ExplainSpec
from services.influence.worker.job import Job

STAGES = ("inputs", "explain", "results")


def run_explain(job: Job, spec: ExplainSpec) -> SucceededMessage:
    """Run an explain job to its end. Raises EifError, Cancelled."""
    raise NotImplementedError
