"""Names of models and indexes in their parts."""

from __future__ import annotations

from dataclasses import dataclass

from services.common import names

MODELS, INDEXES = "models", "indexes"
_PATTERNS = {MODELS: "projects/{project}/models/{model}", INDEXES: "projects/{project}/indexes/{index}"}


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
    """The parts of a resource's name. Raises ARGUMENT_INVALID."""
    project, resource_id = names.parse_name(text, _PATTERNS[collection], field=field)
    return Name(project=project, collection=collection, id=resource_id)


def child_name(parent: str, collection: str, resource_id: str, *, id_field: str) -> Name:
    """The name of a new resource, from the fields of its create request. Raises ARGUMENT_INVALID."""
    names.check_id(resource_id, field=id_field)
    return Name(project=names.parse_parent(parent), collection=collection, id=resource_id)
