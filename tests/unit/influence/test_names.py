from __future__ import annotations

import time
import uuid

import pytest

from services.common.errors import ServiceError
from services.influence import names

GOOD_IDS = ["a", "a1", "a-1", "job-0", "a" * 63]
BAD_IDS = ["", "A", "1a", "-a", "a-", "a_b", "a.b", "ä", "a b", "a/b", "a" * 64, "a\n", "a" * 100_000]


@pytest.mark.parametrize("job_id", GOOD_IDS)
def test_good_names_are_taken_apart_and_put_together(job_id: str) -> None:
    text = f"projects/{job_id}/influenceJobs/{job_id}"
    assert names.parse_job_name(text) == names.JobName(project=job_id, job_id=job_id)
    assert str(names.parse_job_name(text)) == text
    assert names.parse_parent(f"projects/{job_id}") == job_id
    names.check_index_name(f"projects/{job_id}/indexes/{job_id}", field="relabel.knn_index")
    names.check_job_id(job_id, field="influence_job_id")


@pytest.mark.parametrize("bad", BAD_IDS)
def test_bad_names_are_refused_with_the_field_and_the_rule(bad: str) -> None:
    for call in (
        lambda: names.parse_job_name(f"projects/p/influenceJobs/{bad}", field="f.g"),
        lambda: names.parse_job_name(f"projects/{bad}/influenceJobs/j", field="f.g"),
        lambda: names.parse_parent(f"projects/{bad}", field="f.g"),
        lambda: names.check_index_name(f"projects/p/indexes/{bad}", field="f.g"),
        lambda: names.check_job_id(bad, field="f.g"),
    ):
        with pytest.raises(ServiceError, match=r"^f\.g: .*ids are 1 to 63 of a-z, 0-9 and '-'") as caught:
            call()
        assert caught.value.reason == "ARGUMENT_INVALID"
        assert caught.value.metadata == {"field": "f.g"}
        assert len(caught.value.message) < 400


def test_a_missing_name_is_said_to_be_required() -> None:
    with pytest.raises(ServiceError, match=r"^name: it is required, as projects/"):
        names.parse_job_name("")


@pytest.mark.parametrize(
    "text", ["projects/p", "projects/p/influenceJobs/", "p/p/influenceJobs/j", "projects/p/influenceJobs/j/x"]
)
def test_other_shapes_are_refused(text: str) -> None:
    with pytest.raises(ServiceError, match=r"is not projects/\{project\}/influenceJobs/\{influence_job\}"):
        names.parse_job_name(text)


def test_request_ids_have_one_form() -> None:
    request_id = str(uuid.uuid4())
    assert names.parse_request_id(request_id.upper()) == request_id


@pytest.mark.parametrize(
    "bad",
    [
        "x",
        "0" * 32,
        str(uuid.UUID(int=0)),
        "9f2f61f5d0114e7f9a1c0d3b8e5a7c42",
        "{9f2f61f5-d011-4e7f-9a1c-0d3b8e5a7c42}",
        "9f2f61f5-d011-4e7f-9a1c-0d3b8e5a7c42\n",
    ],
)
def test_other_request_ids_are_refused(bad: str) -> None:
    with pytest.raises(ServiceError, match=r"^request_id: .* is not a UUID such as"):
        names.parse_request_id(bad)


def test_new_ids_follow_the_rule_and_differ() -> None:
    ids = {names.new_job_id() for _ in range(100)}
    assert len(ids) == 100
    for job_id in ids:
        names.check_job_id(job_id, field="x")


def test_uids_are_uuids_that_sort_by_time() -> None:
    first = names.new_uid()
    time.sleep(0.002)
    second = names.new_uid()
    assert first < second
    for uid in (first, second):
        assert uuid.UUID(uid).version == 7
        assert uuid.UUID(uid).variant == uuid.RFC_4122
