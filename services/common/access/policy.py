"""Who may do what in which project, and where the objects of a project lie. What is not granted is denied.

version: 1
projects:
  retrieval:
    inputs: ["s3://datasets/retrieval/", "s3://models/"]
    outputs: ["s3://results/retrieval/"]
grants:
  - identities: ["spiffe://example.org/ns/ml/*", "token:nightly"]
    projects: [retrieval]
    verbs: [read, write]
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from services.common.access.identity import SPIFFE, SUBJECT, TOKEN
from services.common.access.rules import Use, Verb
from services.common.access.yaml_file import Strict, parse_yaml

ANY = "*"
MAX_ENTRIES = 10_000

_PROJECT = re.compile(r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")


def _identity(pattern: str) -> str:
    if not pattern.startswith((SPIFFE, SUBJECT, TOKEN)):
        raise ValueError(f"{pattern!r} is no identity: write {SPIFFE}..., {SUBJECT}... or {TOKEN}...")
    if ANY in pattern[:-1]:
        raise ValueError(f"{pattern!r} has a * that is not at its end")
    if pattern.startswith(SPIFFE) and pattern.endswith(ANY) and not pattern.removeprefix(SPIFFE)[:-1].endswith("/"):
        raise ValueError(f"{pattern!r}: the * of a SPIFFE id follows a /, so that it never ends within a name")
    return pattern


def _project(name: str) -> str:
    if not _PROJECT.fullmatch(name):
        raise ValueError(f"{name!r} is not the id of a project")
    return name


def _project_pattern(name: str) -> str:
    return name if name == ANY else _project(name)


def _prefix(prefix: str) -> str:
    if not prefix.startswith(("s3://", "file:///")):
        raise ValueError(f"{prefix!r} must start with s3:// or file:///")
    if not prefix.endswith("/"):
        raise ValueError(f"{prefix!r} must end with /, so that it never ends within a name")
    return prefix


IdentityPattern = Annotated[str, Field(min_length=1, max_length=2048), AfterValidator(_identity)]
ProjectId = Annotated[str, AfterValidator(_project)]
ProjectPattern = Annotated[str, AfterValidator(_project_pattern)]
Prefix = Annotated[str, Field(max_length=2048), AfterValidator(_prefix)]


class Project(Strict):
    """Where the objects of a project lie."""

    inputs: Annotated[
        tuple[Prefix, ...], Field(max_length=MAX_ENTRIES, description="Starts of the URIs that its calls may read.")
    ] = ()
    outputs: Annotated[
        tuple[Prefix, ...], Field(max_length=MAX_ENTRIES, description="Starts of the URIs that its jobs may write to.")
    ] = ()


class Grant(Strict):
    """Verbs in projects, for identities."""

    identities: Annotated[
        tuple[IdentityPattern, ...],
        Field(min_length=1, max_length=MAX_ENTRIES, description="A * at the end stands for any end."),
    ]
    projects: Annotated[
        tuple[ProjectPattern, ...],
        Field(min_length=1, max_length=MAX_ENTRIES, description="* stands for all that `projects` lists."),
    ]
    verbs: Annotated[tuple[Verb, ...], Field(min_length=1, description="What they may do there.")]

    def names(self, identity: str) -> bool:
        """Whether an identity is among those it is for."""
        return any(
            identity.startswith(pattern[:-1]) if pattern.endswith(ANY) else identity == pattern
            for pattern in self.identities
        )


class AccessPolicy(Strict):
    """Who may do what."""

    version: Annotated[Literal[1], Field(description="Version of this form.")]
    projects: Annotated[
        dict[ProjectId, Project], Field(max_length=MAX_ENTRIES, description="Every project that there is, by its id.")
    ]
    grants: Annotated[tuple[Grant, ...], Field(max_length=MAX_ENTRIES, description="In any order; they add up.")]

    @model_validator(mode="after")
    def _known_projects(self) -> Self:
        for grant in self.grants:
            for project in grant.projects:
                if project != ANY and project not in self.projects:
                    raise ValueError(f"a grant is for project {project}, which `projects` does not list")
        return self

    def permits(self, identity: str, verb: Verb, project: str) -> bool:
        """Whether an identity may do this in a project."""
        return project in self.projects and any(
            verb in grant.verbs and (ANY in grant.projects or project in grant.projects) and grant.names(identity)
            for grant in self.grants
        )

    def knows(self, identity: str) -> bool:
        """Whether an identity may do anything at all."""
        return any(grant.names(identity) for grant in self.grants)

    def prefixes(self, project: str, use: Use) -> tuple[str, ...]:
        """Starts of the URIs that a project may use; none for a project that is not there."""
        known = self.projects.get(project)
        if known is None:
            return ()
        return known.inputs if use is Use.INPUT else known.outputs


def parse_policy(data: bytes) -> AccessPolicy:
    """The policy in a file. Raises ValueError."""
    return parse_yaml(AccessPolicy, data)


def is_under(uri: str, prefixes: tuple[str, ...]) -> bool:
    """Whether a URI, or the folder that it names, starts with one of the prefixes."""
    return f"{uri.rstrip('/')}/".startswith(prefixes)
