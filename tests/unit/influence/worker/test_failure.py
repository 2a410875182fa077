from __future__ import annotations

import errno
import logging

import numpy as np
import pytest
import torch

from eif_engine.errors import ManifestInvalid
from services.common.errors import ServiceError
from services.influence.worker.failure import MAX_MESSAGE, failure_of


def test_a_known_error_keeps_its_reason_message_and_metadata() -> None:
    failure = failure_of(ManifestInvalid("m.csv, line 3: id is missing", uri="m.csv", line=3))
    assert failure.reason == "MANIFEST_INVALID"
    assert failure.message == "m.csv, line 3: id is missing"
    assert failure.metadata == {"uri": "m.csv", "line": "3"}


def test_a_long_message_is_cut() -> None:
    assert len(failure_of(ServiceError("OBJECT_NOT_FOUND", "x" * 10_000)).message) == MAX_MESSAGE


def test_real_exhaustion_of_memory_is_told_as_such() -> None:
    with pytest.raises(MemoryError) as numpy_error:
        np.zeros(2**55)
    with pytest.raises(RuntimeError) as torch_error:
        torch.empty(2**55)
    assert failure_of(numpy_error.value).reason == "MEMORY_EXCEEDED"
    assert failure_of(torch_error.value).reason == "MEMORY_EXCEEDED"
    assert failure_of(torch.OutOfMemoryError("CUDA out of memory")).reason == "GPU_OUT_OF_MEMORY"


def test_a_full_disk_is_told_as_such() -> None:
    assert failure_of(OSError(errno.ENOSPC, "No space left on device")).reason == "SCRATCH_FULL"


def test_anything_else_is_internal_and_does_not_leak(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        failure = failure_of(KeyError("s3cret"))
    assert failure.reason == "INTERNAL"
    assert "KeyError" in failure.message
    assert "s3cret" not in failure.message
    assert "s3cret" in caplog.text


def test_a_runtime_error_about_something_else_is_internal() -> None:
    assert failure_of(RuntimeError("mat1 and mat2 shapes cannot be multiplied")).reason == "INTERNAL"
