"""The rules that every proto of this API keeps (google.aip.dev), told from its descriptors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from eif.embedding.v1 import embedding_service_pb2
from eif.influence.v1 import influence_service_pb2
from google.api import field_behavior_pb2, field_info_pb2, resource_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor, MethodDescriptor

from services.common.errors import STATUS_BY_REASON

REQUIRED, OPTIONAL = field_behavior_pb2.REQUIRED, field_behavior_pb2.OPTIONAL
OUTPUT_ONLY, IDENTIFIER = field_behavior_pb2.OUTPUT_ONLY, field_behavior_pb2.IDENTIFIER

SERVICES = [
    file.services_by_name[name]
    for file, name in (
        (influence_service_pb2.DESCRIPTOR, "InfluenceService"),
        (embedding_service_pb2.DESCRIPTOR, "EmbeddingService"),
    )
]
METHODS = [method for service in SERVICES for method in service.methods]


def all_files(file: FileDescriptor) -> Iterator[FileDescriptor]:
    yield file
    for imported in file.dependencies:
        if imported.package.startswith("eif."):
            yield from all_files(imported)


FILES = {file.name: file for service in SERVICES for file in all_files(service.file)}


def messages_in(message: Descriptor) -> Iterator[Descriptor]:
    yield message
    for nested in message.nested_types:
        if not nested.GetOptions().map_entry:
            yield from messages_in(nested)


MESSAGES = [
    message for file in FILES.values() for top in file.message_types_by_name.values() for message in messages_in(top)
]
ENUMS = [
    *(enum for file in FILES.values() for enum in file.enum_types_by_name.values()),
    *(enum for message in MESSAGES for enum in message.enum_types),
]
RESOURCES = [message for message in MESSAGES if message.GetOptions().HasExtension(resource_pb2.resource)]  # type: ignore[arg-type]  # as below


def extension(described: Descriptor | FieldDescriptor, of: FieldDescriptor) -> Any:
    """The value of an option; the stubs of the vendored protos do not tell its type."""
    return described.GetOptions().Extensions[of]  # type: ignore[index]  # an extension is a plain descriptor there


def behavior(field: FieldDescriptor) -> set[int]:
    return set(extension(field, field_behavior_pb2.field_behavior))


def reachable(message: Descriptor, seen: set[str] | None = None) -> Iterator[Descriptor]:
    """A message and those in its fields, as far as they are ours."""
    seen = seen if seen is not None else set()
    if message.full_name in seen or not message.full_name.startswith("eif.") or message.GetOptions().map_entry:
        return
    seen.add(message.full_name)
    yield message
    for field in message.fields:
        if field.message_type is not None and OUTPUT_ONLY not in behavior(field):
            yield from reachable(field.message_type, seen)


REQUEST_FIELDS = {
    field.full_name: field for method in METHODS for message in reachable(method.input_type) for field in message.fields
}


def named(method: MethodDescriptor) -> str:
    return method.name


@pytest.mark.parametrize("field", REQUEST_FIELDS.values(), ids=list(REQUEST_FIELDS))
def test_every_field_of_a_request_says_how_it_behaves(field: FieldDescriptor) -> None:
    assert behavior(field) & {REQUIRED, OPTIONAL, OUTPUT_ONLY, IDENTIFIER}, "AIP-203"
    assert not {REQUIRED, OPTIONAL} <= behavior(field)


@pytest.mark.parametrize("method", METHODS, ids=named)
def test_requests_are_named_after_their_method(method: MethodDescriptor) -> None:
    assert method.input_type.name == f"{method.name}Request"


@pytest.mark.parametrize("method", METHODS, ids=named)
def test_standard_methods_answer_with_the_resource(method: MethodDescriptor) -> None:
    for verb in ("Get", "Create", "Cancel"):
        if method.name.startswith(verb) and method.name != "GetServerInfo":
            assert method.output_type.name == method.name.removeprefix(verb), "AIP-131, AIP-133"
    if method.name.startswith("Delete"):
        assert method.output_type.full_name == "google.protobuf.Empty", "AIP-135"


@pytest.mark.parametrize("method", [method for method in METHODS if method.name.startswith("Create")], ids=named)
def test_create_can_be_retried_and_tried(method: MethodDescriptor) -> None:
    fields = method.input_type.fields_by_name
    resource = extension(method.output_type, resource_pb2.resource)
    assert fields["parent"].number == 1
    if resource.singular == "influenceJob":  # a try is worth its own call only where the real one takes minutes
        assert fields["validate_only"].type == FieldDescriptor.TYPE_BOOL, "AIP-163"
    info = extension(fields["request_id"], field_info_pb2.field_info)
    assert info.format == field_info_pb2.FieldInfo.UUID4, "AIP-155"
    snake = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in resource.singular)
    assert f"{snake}_id" in fields, "AIP-133"


@pytest.mark.parametrize("method", [method for method in METHODS if method.name.startswith("List")], ids=named)
def test_lists_have_pages(method: MethodDescriptor) -> None:
    request, response = method.input_type.fields_by_name, method.output_type.fields_by_name
    assert request["page_size"].type == FieldDescriptor.TYPE_INT32
    assert request["page_token"].type == FieldDescriptor.TYPE_STRING
    assert response["next_page_token"].type == FieldDescriptor.TYPE_STRING
    assert method.output_type.fields[0].is_repeated, "AIP-158"
    assert method.output_type.fields[0].number == 1
    assert not method.server_streaming, "AIP-158"


@pytest.mark.parametrize("field", REQUEST_FIELDS.values(), ids=list(REQUEST_FIELDS))
def test_names_of_resources_refer_to_their_type(field: FieldDescriptor) -> None:
    if field.name not in {"name", "parent"} or IDENTIFIER in behavior(field):
        return
    reference = extension(field, resource_pb2.resource_reference)
    types = {extension(message, resource_pb2.resource).type for message in RESOURCES}
    assert (reference.type or reference.child_type) in types, "AIP-122"
    assert bool(reference.child_type) is (field.name == "parent")


@pytest.mark.parametrize("resource", RESOURCES, ids=[message.name for message in RESOURCES])
def test_resources_have_their_standard_fields(resource: Descriptor) -> None:
    option = extension(resource, resource_pb2.resource)
    (pattern,) = option.pattern
    assert pattern.split("/")[-2] == option.plural, "AIP-122"
    assert option.type.split("/")[1] == resource.name, "AIP-123"
    name = resource.fields_by_name["name"]
    assert (name.number, behavior(name)) == (1, {IDENTIFIER})
    for field_name in ("uid", "state", "create_time", "update_time", "etag"):
        if field_name in resource.fields_by_name:
            assert behavior(resource.fields_by_name[field_name]) == {OUTPUT_ONLY}


@pytest.mark.parametrize("enum", ENUMS, ids=[enum.full_name for enum in ENUMS])
def test_enums_start_unspecified_and_carry_their_prefix(enum: EnumDescriptor) -> None:
    prefix = "".join(f"_{letter}" if letter.isupper() else letter.upper() for letter in enum.name).lstrip("_")
    assert enum.values[0].number == 0
    assert enum.values[0].name == f"{prefix}_UNSPECIFIED", "AIP-126"
    assert all(value.name.startswith(f"{prefix}_") for value in enum.values)


@pytest.mark.parametrize("message", MESSAGES, ids=[message.full_name for message in MESSAGES])
def test_times_and_field_names_are_standard(message: Descriptor) -> None:
    for field in message.fields:
        is_time = field.message_type is not None and field.message_type.full_name == "google.protobuf.Timestamp"
        assert field.name.endswith("_time") is is_time, "AIP-142"
        assert field.name == field.name.lower()


@pytest.mark.parametrize("name", FILES)
def test_files_lie_where_their_package_says(name: str) -> None:
    package = FILES[name].package
    assert name.startswith(package.replace(".", "/") + "/")
    assert package.endswith(".v1")


@pytest.mark.parametrize("reason", STATUS_BY_REASON)
def test_reasons_have_the_form_of_error_info(reason: str) -> None:
    import re

    assert re.fullmatch(r"[A-Z][A-Z0-9_]+[A-Z0-9]", reason), "AIP-193"
    assert len(reason) <= 63
