from __future__ import annotations

from typing import Any

import pytest

from eif_engine.errors import ManifestInvalid
from services.common.errors import ServiceError
from services.influence.worker.cancellation import Cancelled
from services.influence.worker.ray_task import TaskFailure, attempt


def failing(error: Exception) -> Any:
    def work() -> Any:
        raise error

    return attempt(work)


def test_an_error_travels_as_plain_data_and_wrong_input_is_final() -> None:
    found = failing(ManifestInvalid("line 3 of x is no JSON", uri="x", line=3))
    assert isinstance(found, TaskFailure)
    assert (found.failure.reason, found.failure.metadata["uri"], found.final) == ("MANIFEST_INVALID", "x", True)


@pytest.mark.parametrize(
    ("error", "reason"),
    [(ServiceError("STORAGE_UNAVAILABLE", "x"), "STORAGE_UNAVAILABLE"), (RuntimeError("s3cret"), "INTERNAL")],
    ids=["the store", "its own code"],
)
def test_what_may_end_better_elsewhere_is_not_final(error: Exception, reason: str) -> None:
    found = failing(error)
    assert (found.failure.reason, found.final) == (reason, False)
    assert "s3cret" not in found.failure.message


def test_a_cancel_is_no_failure_of_a_shard() -> None:
    with pytest.raises(Cancelled):
        failing(Cancelled())
