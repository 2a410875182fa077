"""Resource names, the ids in them, and what is said of a field that is wrong."""

from __future__ import annotations

import re
import uuid
from functools import cache

from services.common.errors import ServiceError

ID_RULE = "ids are 1 to 63 of a-z, 0-9 and '-', start with a letter and do not end with '-'"
PARENT = "projects/{project}"

_ID = r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?"
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SOME_UUID = "123e4567-e89b-42d3-a456-426614174000"


def parse_name(text: str, pattern: str, *, field: str = "name") -> tuple[str, ...]:
    """The ids in a resource's name.

    Args:
        text: The name.
        pattern: As in the .proto file, for example `projects/{project}/influenceJobs/{influence_job}`.
        field: Of the request, for the message.

    Raises:
        ServiceError: ARGUMENT_INVALID.
    """
    match = _compiled(pattern).fullmatch(text)
    if match is not None:
        return match.groups()
    raise invalid(field, f"{shown(text)} is not {pattern}; {ID_RULE}" if text else f"it is required, as {pattern}")


def parse_parent(text: str, *, field: str = "parent") -> str:
    """The project of `projects/{project}`."""
    return parse_name(text, PARENT, field=field)[0]


def check_id(text: str, *, field: str) -> None:
    """Refuse what cannot be the last segment of a name."""
    if re.fullmatch(_ID, text) is None:
        raise invalid(field, f"{shown(text)} is not an id: {ID_RULE}")


def parse_request_id(text: str) -> str:
    """A request id in its canonical form."""
    if _UUID.fullmatch(text.lower()) is None or not uuid.UUID(text).int:
        raise invalid("request_id", f"{shown(text)} is not a UUID such as {_SOME_UUID}")
    return text.lower()


def invalid(field: str, why: str) -> ServiceError:
    """ARGUMENT_INVALID that names the field of the request."""
    return ServiceError("ARGUMENT_INVALID", f"{field}: {why}", field=field)


def shown(text: str) -> str:
    """Text of a caller for a message: quoted, printable, short."""
    return repr(text if len(text) <= 100 else f"{text[:100]}...")


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{\w+\}", f"({_ID})", pattern))
