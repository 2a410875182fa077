from __future__ import annotations

import re
import uuid
from collections.abc import Callable

import pytest
from eif.embedding.v1 import resources_pb2
from eif.influence.v1 import job_pb2
from google.api.resource_pb2 import resource
from google.protobuf.descriptor import Descriptor

from services.common.errors import ServiceError
from services.common.names import ID_RULE, check_id, parse_name, parse_parent, parse_request_id, shown

JOB = "projects/{project}/influenceJobs/{influence_job}"
GOOD_IDS = ["a", "a1", "a-1", "job-0", "a" * 63]
BAD_IDS = ["", "A", "1a", "-a", "a-", "a_b", "a.b", "ä", "a b", "a/b", "a" * 64, "a\n", "a\x00", "a" * 100_000]


@pytest.mark.parametrize("good", GOOD_IDS)
def test_the_ids_of_a_good_name(good: str) -> None:
    assert parse_name(f"projects/{good}/influenceJobs/{good}", JOB) == (good, good)
    assert parse_parent(f"projects/{good}") == good
    check_id(good, field="model_id")


@pytest.mark.parametrize("bad", BAD_IDS)
def test_a_bad_id_is_refused_with_the_field_and_the_rule(bad: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: parse_name(f"projects/p/influenceJobs/{bad}", JOB, field="a.b"),
        lambda: parse_name(f"projects/{bad}/influenceJobs/j", JOB, field="a.b"),
        lambda: parse_parent(f"projects/{bad}", field="a.b"),
        lambda: check_id(bad, field="a.b"),
    ]
    for each in calls:
        with pytest.raises(ServiceError, match=f"^a\\.b: .*{re.escape(ID_RULE)}") as caught:
            each()
        assert caught.value.reason == "ARGUMENT_INVALID"
        assert caught.value.metadata == {"field": "a.b"}
        assert caught.value.message.isprintable()
        assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    "text", ["projects/p", "projects/p/influenceJobs/", "x/p/influenceJobs/j", "projects/p/influenceJobs/j/x", "/"]
)
def test_another_shape_is_told_the_pattern(text: str) -> None:
    with pytest.raises(ServiceError, match=re.escape(f"is not {JOB}")):
        parse_name(text, JOB)


def test_a_missing_name_is_told_to_be_required() -> None:
    with pytest.raises(ServiceError, match=re.escape(f"name: it is required, as {JOB}")):
        parse_name("", JOB)


@pytest.mark.parametrize(
    "message", [job_pb2.InfluenceJob.DESCRIPTOR, resources_pb2.Model.DESCRIPTOR, resources_pb2.Index.DESCRIPTOR]
)
def test_the_patterns_of_the_contract_are_understood(message: Descriptor) -> None:
    (pattern,) = message.GetOptions().Extensions[resource].pattern  # type: ignore[index,var-annotated]  # untyped extension
    assert parse_name(re.sub(r"\{\w+\}", "abc-1", pattern), pattern) == ("abc-1", "abc-1")


def test_request_ids_have_one_form() -> None:
    request_id = str(uuid.uuid4())
    assert parse_request_id(request_id.upper()) == request_id


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "x",
        "0" * 32,
        "00000000-0000-0000-0000-000000000000",
        "123e4567-e89b-42d3-a456-42661417400g",
        "{x}",
        "1" * 999,
    ],
)
def test_what_is_no_request_id_is_refused(bad: str) -> None:
    with pytest.raises(ServiceError, match=r"request_id: .* is not a UUID"):
        parse_request_id(bad)


def test_text_of_a_caller_is_quoted_and_short() -> None:
    assert shown("a\nb") == r"'a\nb'"
    assert len(shown("x" * 5000)) == 105
