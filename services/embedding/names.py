"""Resource names and the ids in them."""

from __future__ import annotations

from dataclasses import dataclass

from services.common import names
from services.common.names import check_id, invalid, parse_parent, shown

__all__ = [
    "INDEXES",
    "MODELS",
    "Name",
    "child_name",
    "invalid",
    "parse_name",
    "parse_parent",
    "parse_request_id",
    "shown",
]

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
    singular = "model" if collection == MODELS else "index"
    project, resource_id = names.parse_name(text, f"projects/{{project}}/{collection}/{{{singular}}}", field=field)
    return Name(project=project, collection=collection, id=resource_id)


def child_name(parent: str, collection: str, resource_id: str, *, id_field: str) -> Name:
    """The name of a new resource, from the fields of its create request."""
    if not resource_id:
        raise invalid(id_field, "it is required")
    check_id(resource_id, field=id_field)
    return Name(project=parse_parent(parent), collection=collection, id=resource_id)


def parse_request_id(text: str) -> str | None:
    """A request id in its canonical form; None when there is none."""
    return names.parse_request_id(text) if text else None
