"""What a call needs: verbs on the projects of what it names, and URIs that its project may use."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from services.common.names import PARENT, invalid, parse_parent, shown


class Verb(StrEnum):
    """What a caller may do in a project."""

    READ = "read"
    WRITE = "write"
    EMBED = "embed"
    SEARCH = "search"
    ADMIN = "admin"


class Use(StrEnum):
    """What a URI is for; the name of the prefixes that it must start with."""

    INPUT = "inputs"
    OUTPUT = "outputs"


@dataclass(frozen=True, kw_only=True)
class NamedResource:
    """A resource in a field of a request, and what is done with it."""

    field: str
    name: str
    verb: Verb


@dataclass(frozen=True, kw_only=True)
class NamedUri:
    """A URI in a field of a request."""

    field: str
    uri: str
    use: Use = Use.INPUT


def _nothing(_request: Any) -> Iterable[Any]:  # noqa: ANN401  any request
    return ()


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What a method needs.

    Attributes:
        verb: On the project of the resource in `field`. None: any verb on any project will do.
        field: Of the request; holds a resource's name, or its parent.
        others: Further resources that a request names; names that are empty are not given.
        uris: Those that a request names.
    """

    verb: Verb | None
    field: str = ""
    others: Callable[[Any], Iterable[NamedResource]] = _nothing
    uris: Callable[[Any], Iterable[NamedUri]] = _nothing

    def resources(self, request: object) -> Iterable[NamedResource]:
        """What a request names; first what it is about."""
        if self.verb is not None:
            yield NamedResource(field=self.field, name=getattr(request, self.field), verb=self.verb)
            yield from self.others(request)


def project_of(resource: NamedResource) -> str:
    """The project that a resource belongs to. Raises ARGUMENT_INVALID when its name says none."""
    parent = "/".join(resource.name.split("/", 2)[:2])
    if not resource.name:
        raise invalid(resource.field, f"it is required, and begins with {PARENT}")
    if len(resource.name) > 1024:
        raise invalid(resource.field, f"{shown(resource.name)} is longer than any name")
    return parse_parent(parent, field=resource.field)
