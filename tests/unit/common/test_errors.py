from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from grpc import StatusCode

import eif_engine.errors as engine_errors
from eif_engine.errors import EifError
from services.common.errors import STATUS_BY_REASON, ServiceError
from services.common.samples import QUARANTINE_REASONS
from tests.conftest import REPO

ROW = re.compile(r"^\| `([A-Z_]+)` \| `([A-Z_]+)` \| (.+) \| (.+) \|$", re.MULTILINE)


def subclasses(base: type[EifError]) -> Iterator[type[EifError]]:
    for each in base.__subclasses__():
        yield each
        yield from subclasses(each)


def test_the_reference_lists_exactly_the_reasons_and_their_statuses() -> None:
    rows = ROW.findall((REPO / "docs" / "reference" / "errors.md").read_text())
    assert {reason: status for reason, status, _, _ in rows} == {
        reason: status.name for reason, status in STATUS_BY_REASON.items()
    }
    assert len(rows) == len(STATUS_BY_REASON)
    assert all(meaning.endswith(".") and action.endswith(".") for _, _, meaning, action in rows)


def test_every_error_of_the_engine_has_a_status() -> None:
    classes = [each for each in subclasses(EifError) if each.__module__ == engine_errors.__name__]
    assert len(classes) > 10
    assert {each.reason for each in classes} <= set(STATUS_BY_REASON)


def test_every_reason_written_in_the_source_has_a_status() -> None:
    written = set()
    for folder in ("services", "eif_engine"):
        for path in (REPO / folder).rglob("*.py"):
            written |= set(re.findall(r'ServiceError\(\s*"([A-Z_]+)"', path.read_text()))
    assert len(written) > 20
    assert written <= set(STATUS_BY_REASON)


def test_reasons_are_words_that_the_api_guidelines_allow() -> None:
    assert all(re.fullmatch(r"[A-Z][A-Z0-9_]{1,61}[A-Z0-9]", reason) for reason in STATUS_BY_REASON)
    assert StatusCode.OK not in STATUS_BY_REASON.values()
    assert set(STATUS_BY_REASON) >= QUARANTINE_REASONS


def test_an_unknown_reason_is_a_mistake_in_the_program() -> None:
    with pytest.raises(ValueError, match="NO_SUCH_REASON"):
        ServiceError("NO_SUCH_REASON", "text")


def test_metadata_is_text() -> None:
    error = ServiceError("MANIFEST_INVALID", "text", line=7, share=0.5, uri="s3://b/k")
    assert error.metadata == {"line": "7", "share": "0.5", "uri": "s3://b/k"}
    assert str(error) == error.message == "text"
