"""Resource names and the ids in them."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass

from services.common.errors import ServiceError

_ID = r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?"
_PARENT = re.compile(rf"projects/({_ID})")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_RULE = "ids are 1 to 63 of a-z, 0-9 and '-', start with a letter and do not end with '-'"

MODELS, INDEXES = "models", "indexes"


@dataclass(frozen=True, kw_only=True)
class Name:
    """`projects/{project}/{collection}/{id}` in its parts."""

    project: str
    collection: str
    id: str

    @property
    def parent(self) -> str:
        return f"projects/{self.project}"

    def __str__(self) -> str:
        return f"{self.parent}/{self.collection}/{self.id}"


def parse_name(text: str, collection: str, *, field: str = "name") -> Name:
    """The parts of a resource's name."""
    match = re.fullmatch(rf"projects/({_ID})/{collection}/({_ID})", text)
    if match is None:
        singular = "model" if collection == MODELS else "index"
        raise _malformed(text, field, f"projects/{{project}}/{collection}/{{{singular}}}")
    return Name(project=match[1], collection=collection, id=match[2])


def child_name(parent: str, collection: str, resource_id: str, *, id_field: str) -> Name:
    """The name of a new resource, from the fields of its create request."""
    if not re.fullmatch(_ID, resource_id):
        raise invalid(id_field, f"{shown(resource_id)} is not an id: {_RULE}" if resource_id else "it is required")
    return Name(project=parse_parent(parent), collection=collection, id=resource_id)


def parse_parent(text: str) -> str:
    """The project of `projects/{project}`."""
    match = _PARENT.fullmatch(text)
    if match is None:
        raise _malformed(text, "parent", "projects/{project}")
    return match[1]


def parse_request_id(text: str) -> str | None:
    """A request id in lower case; None when there is none."""
    if not text:
        return None
    if not _UUID.fullmatch(text.lower()) or not uuid.UUID(text).int:
        raise invalid("request_id", f"{shown(text)} is not a UUID such as 123e4567-e89b-42d3-a456-426614174000")
    return text.lower()


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
