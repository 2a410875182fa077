"""The tables of what methods need, against the descriptors of the services."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from eif.embedding.v1 import embedding_service_pb2
from eif.influence.v1 import influence_service_pb2
from google.api import field_behavior_pb2, resource_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given
from hypothesis import strategies as st

from services.common.access.rules import NamedResource, Use, Verb, project_of
from services.common.errors import ServiceError
from services.common.names import parse_parent
from services.embedding.access import RULES as EMBEDDING_RULES
from services.embedding.names import INDEXES, MODELS, parse_name
from services.influence.access import RULES as INFLUENCE_RULES
from services.influence.names import parse_job_name

RULES = {**INFLUENCE_RULES, **EMBEDDING_RULES}
SERVICES = [
    influence_service_pb2.DESCRIPTOR.services_by_name["InfluenceService"],
    embedding_service_pb2.DESCRIPTOR.services_by_name["EmbeddingService"],
]
METHODS = {f"/{service.full_name}/{method.name}": method for service in SERVICES for method in service.methods}
Path = tuple[FieldDescriptor, ...]
RESOURCES = {"job", "knn_index", "previous_audit", "model"}
"""Fields that name a resource although no option says so."""
HARMLESS = {
    *("influence_job_id", "model_id", "index_id", "request_id", "display_name", "etag", "name"),
    *("sha256", "manifest_sha256", "page_token", "resume_token", "query_id", "file", "policy", "kinds"),
    *("sample_id", "neighbor_id", "sample_ids", "classes", "group_by"),
}
"""Fields that lead nowhere but to what the rest of a request names."""


def option(field: FieldDescriptor, extension: Any) -> Any:
    """The value of an option; the stubs of the vendored protos do not tell its type."""
    return field.GetOptions().Extensions[extension]


def text_fields(message: Descriptor, path: Path = ()) -> Iterator[Path]:
    """Every text field that a caller may set, with the fields that lead to it."""
    for field in message.fields:
        if field_behavior_pb2.OUTPUT_ONLY in option(field, field_behavior_pb2.field_behavior):
            continue
        if field.type == FieldDescriptor.TYPE_STRING:
            yield (*path, field)
        elif field.message_type is not None and not field.message_type.GetOptions().map_entry:
            yield from text_fields(field.message_type, (*path, field))


def names_a_resource(path: Path) -> bool:
    reference = option(path[-1], resource_pb2.resource_reference)
    return bool(reference.type or reference.child_type) or path[-1].name in RESOURCES


def names_a_place(path: Path) -> bool:
    return "uri" in path[-1].name.split("_")


def request_with(method: MethodDescriptor, path: Path, text: str) -> Any:
    """A request with one text field set."""
    request: Any = GetMessageClass(method.input_type)()
    message: Any = request
    for field in path[:-1]:
        value = getattr(message, field.name)
        message = value.add() if field.is_repeated else value
        if isinstance(message, Message):
            message.SetInParent()
    setattr(message, path[-1].name, text)
    return request


def cases(wanted: Any) -> list[Any]:
    return [
        pytest.param(method, path, id=f"{method.name}.{'.'.join(field.name for field in path)}")
        for method in METHODS.values()
        for path in text_fields(method.input_type)
        if wanted(path)
    ]


def rule_of(method: MethodDescriptor) -> Any:
    return RULES[f"/{method.containing_service.full_name}/{method.name}"]


def test_every_method_has_a_rule_and_every_rule_a_method() -> None:
    assert set(RULES) == set(METHODS)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_only_server_info_is_of_no_project(name: str) -> None:
    assert (RULES[name].verb is None) is name.endswith("/GetServerInfo")


@pytest.mark.parametrize("name", sorted(METHODS))
def test_what_changes_something_is_not_for_those_who_may_read(name: str) -> None:
    changes = METHODS[name].name.startswith(("Create", "Cancel", "Delete"))
    assert (RULES[name].verb in {Verb.WRITE, Verb.ADMIN}) is changes


@pytest.mark.parametrize(("method", "path"), cases(names_a_resource))
def test_every_resource_in_a_request_needs_a_verb(method: MethodDescriptor, path: Path) -> None:
    named = list(rule_of(method).resources(request_with(method, path, "projects/p/things/t")))
    assert ".".join(field.name for field in path) in {
        each.field for each in named if each.name == "projects/p/things/t"
    }


@pytest.mark.parametrize(("method", "path"), cases(names_a_place))
def test_every_uri_in_a_request_is_looked_at(method: MethodDescriptor, path: Path) -> None:
    (uri,) = rule_of(method).uris(request_with(method, path, "s3://b/k"))
    assert uri.uri == "s3://b/k"
    steps = [f"{field.name}[0]" if field.is_repeated else field.name for field in path]
    assert uri.field == ".".join(steps)
    assert uri.use is (Use.OUTPUT if "output" in path[-1].name else Use.INPUT)


def test_every_text_in_a_request_is_known_for_what_it_is() -> None:
    """A new field is sorted into one of the three here, or this fails."""
    unknown = cases(lambda path: not (names_a_resource(path) or names_a_place(path) or path[-1].name in HARMLESS))
    assert [case.id for case in unknown] == []


def test_the_walk_finds_what_it_should() -> None:
    assert len(cases(names_a_place)) >= 15
    assert len(cases(names_a_resource)) >= 20


@pytest.mark.parametrize("name", ["projects/p", "projects/p/influenceJobs/j", "projects/p/x/../../q", "projects/p/"])
def test_the_project_of_a_name(name: str) -> None:
    assert project_of(NamedResource(field="name", name=name, verb=Verb.READ)) == "p"


@pytest.mark.parametrize(
    "name", ["", "p", "projects", "projects/", "/projects/p", "projects/P/x", "projects//x", "x" * 2000]
)
def test_a_name_without_a_project_is_refused(name: str) -> None:
    with pytest.raises(ServiceError, match=r"^name: ") as caught:
        project_of(NamedResource(field="name", name=name, verb=Verb.READ))
    assert caught.value.reason == "ARGUMENT_INVALID"


@given(
    st.one_of(
        st.from_regex(r"projects/[a-zA-Z0-9/.-]{0,20}/(influenceJobs|models|indexes)/[a-z0-9/.-]{0,10}"),
        st.from_regex(r"projects/[a-z][a-z0-9-]{0,5}[a-z0-9]/influenceJobs/[a-z]{1,5}", fullmatch=True),
        st.text(max_size=60),
    )
)
def test_whoever_is_let_through_for_a_project_reaches_that_project(name: str) -> None:
    """Whatever name a servicer takes, the project that it sees is the one that was looked at."""
    try:
        looked_at = project_of(NamedResource(field="name", name=name, verb=Verb.READ))
    except ServiceError:
        looked_at = ""
    parsers: tuple[Callable[[], str], ...] = (
        lambda: parse_job_name(name).project,
        lambda: parse_name(name, MODELS).project,
        lambda: parse_name(name, INDEXES).project,
        lambda: parse_parent(name),
    )
    for parse in parsers:
        with suppress(ServiceError):
            assert parse() == looked_at
