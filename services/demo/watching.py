"""A job's progress as a step of the demo."""

from __future__ import annotations

from services.client.influence import InfluenceClient
from services.client.jobs import Job
from services.demo.steps import Step


def follow(client: InfluenceClient, job: Job, step: Step) -> Job:
    """Watch a job to its end. Raises JobFailed or JobCancelled."""
    with client.watch(job) as changes:
        for change in changes:
            at = change.progress
            if at is not None and at.stage:
                part = f"{at.stage} ({at.stages_done + 1} of {at.stages_total})"
                step.report(at.done, at.total, part=part, unit=at.unit, eta_seconds=at.eta_seconds)
    return client.wait(job)
