"""What a caller asks for with CreateInfluenceJob."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from services.common.call_record import current_place
from services.influence.clock import now
from services.influence.job import Job
from services.influence.job_store import RequestKey
from services.influence.names import JobName, new_job_id, new_uid
from services.influence.spec import Artifact, JobSpec


@dataclass(frozen=True, kw_only=True)
class NewJob:
    """A job to be; None where the caller leaves the choice to the server."""

    project: str
    spec: JobSpec
    job_id: str | None = None
    request_id: str | None = None
    validate_only: bool = False
    display_name: str = ""
    labels: dict[str, str]
    output_uri_prefix: str | None = None

    @property
    def request_key(self) -> RequestKey | None:
        """Identifies the request, when the caller gave it an id."""
        if self.request_id is None:
            return None
        return RequestKey(project=self.project, request_id=self.request_id, digest=self._digest())

    def _digest(self) -> str:
        """Of what is asked for; values that are left out and values that are the default give the same."""
        body = {
            "job_id": self.job_id,
            "display_name": self.display_name,
            "labels": self.labels,
            "output_uri_prefix": self.output_uri_prefix,
            "kind": self.spec.kind,
            "spec": self.spec.model_dump(mode="json", exclude_defaults=True),
        }
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()

    def as_job(self, *, output_uri_prefix: str, referred: Artifact | None) -> Job:
        """The job, new and waiting."""
        created, place = now(), current_place()
        return Job(
            name=str(JobName(project=self.project, job_id=self.job_id or new_job_id())),
            uid=new_uid(),
            spec=self.spec,
            output_uri_prefix=output_uri_prefix,
            create_time=created,
            update_time=created,
            display_name=self.display_name,
            labels=self.labels,
            referred=referred,
            traceparent=str(place) if place else None,
        )
