"""Resource names and the ids in them."""

from __future__ import annotations

import os
import time
import uuid
from dataclasses import dataclass

from services.common.names import check_id, invalid, parse_name, parse_parent, parse_request_id, shown

__all__ = [
    "JobName",
    "check_index_name",
    "check_job_id",
    "invalid",
    "new_job_id",
    "new_uid",
    "parse_job_name",
    "parse_parent",
    "parse_request_id",
    "shown",
]

_JOB = "projects/{project}/influenceJobs/{influence_job}"
_INDEX = "projects/{project}/indexes/{index}"


@dataclass(frozen=True, kw_only=True)
class JobName:
    """`projects/{project}/influenceJobs/{influence_job}` in its parts."""

    project: str
    job_id: str

    def __str__(self) -> str:
        return f"projects/{self.project}/influenceJobs/{self.job_id}"


def parse_job_name(text: str, *, field: str = "name") -> JobName:
    """Project and id of a job's name."""
    project, job_id = parse_name(text, _JOB, field=field)
    return JobName(project=project, job_id=job_id)


def check_index_name(text: str, *, field: str) -> None:
    """Refuse what is not `projects/{project}/indexes/{index}`."""
    parse_name(text, _INDEX, field=field)


def check_job_id(text: str, *, field: str) -> None:
    """Refuse what cannot be the last segment of a name."""
    check_id(text, field=field)


def new_job_id() -> str:
    """An id that no other job has."""
    return f"job-{uuid.uuid4().hex[:20]}"


def new_uid() -> str:
    """A UUID version 7: later ones sort after earlier ones, so results lie in the order of their jobs."""
    bits = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    bits = bits & ~(0xF << 76) & ~(0b11 << 62) | 7 << 76 | 0b10 << 62
    return str(uuid.UUID(int=bits))
