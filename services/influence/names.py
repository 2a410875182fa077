"""Resource names and the ids in them."""

from __future__ import annotations

import os
import re
import time
import uuid
from dataclasses import dataclass

from services.common.errors import ServiceError

_ID = r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?"
ID = re.compile(_ID)
_PROJECT = re.compile(rf"projects/({_ID})")
_JOB = re.compile(rf"projects/({_ID})/influenceJobs/({_ID})")
_INDEX = re.compile(rf"projects/({_ID})/indexes/({_ID})")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SOME_UUID = "123e4567-e89b-42d3-a456-426614174000"
_RULE = "ids are 1 to 63 of a-z, 0-9 and '-', start with a letter and do not end with '-'"


@dataclass(frozen=True, kw_only=True)
class JobName:
    """`projects/{project}/influenceJobs/{influence_job}` in its parts."""

    project: str
    job_id: str

    def __str__(self) -> str:
        return f"projects/{self.project}/influenceJobs/{self.job_id}"


def parse_parent(text: str, *, field: str = "parent") -> str:
    """The project of `projects/{project}`."""
    match = _PROJECT.fullmatch(text)
    if match is None:
        raise _malformed(text, field, "projects/{project}")
    return match[1]


def parse_job_name(text: str, *, field: str = "name") -> JobName:
    """Project and id of a job's name."""
    match = _JOB.fullmatch(text)
    if match is None:
        raise _malformed(text, field, "projects/{project}/influenceJobs/{influence_job}")
    return JobName(project=match[1], job_id=match[2])


def check_index_name(text: str, *, field: str) -> None:
    """Refuse what is not `projects/{project}/indexes/{index}`."""
    if _INDEX.fullmatch(text) is None:
        raise _malformed(text, field, "projects/{project}/indexes/{index}")


def check_job_id(text: str, *, field: str) -> None:
    """Refuse what cannot be the last segment of a name."""
    if ID.fullmatch(text) is None:
        raise invalid(field, f"{shown(text)} is not an id: {_RULE}")


def parse_request_id(text: str) -> str:
    """A request id in its canonical form."""
    if _UUID.fullmatch(text.lower()) is None or not uuid.UUID(text).int:
        raise invalid("request_id", f"{shown(text)} is not a UUID such as {_SOME_UUID}")
    return text.lower()


def new_job_id() -> str:
    """An id that no other job has."""
    return f"job-{uuid.uuid4().hex[:20]}"


def new_uid() -> str:
    """A UUID version 7: later ones sort after earlier ones, so results lie in the order of their jobs."""
    bits = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    bits = bits & ~(0xF << 76) & ~(0b11 << 62) | 7 << 76 | 0b10 << 62
    return str(uuid.UUID(int=bits))


def invalid(field: str, why: str) -> ServiceError:
    """ARGUMENT_INVALID that names the field of the request."""
    return ServiceError("ARGUMENT_INVALID", f"{field}: {why}", field=field)


def shown(text: str) -> str:
    """Text of a caller for a message: quoted, printable, short."""
    return repr(text if len(text) <= 100 else f"{text[:100]}...")


def _malformed(text: str, field: str, pattern: str) -> ServiceError:
    if not text:
        return invalid(field, f"it is required, as {pattern}")
    return invalid(field, f"{shown(text)} is not {pattern}; {_RULE}")
