from __future__ import annotations

import pytest

from services.common.errors import ServiceError
from services.embedding.admission import Admission


def test_what_does_not_fit_is_refused_and_fits_again_later() -> None:
    admission = Admission("images", max_items=10, max_bytes=1000)
    with admission.hold(items=6, size=500):
        with admission.hold(items=4, size=500), pytest.raises(ServiceError) as full, admission.hold(items=1):
            pytest.fail("admitted past the limit")
        with pytest.raises(ServiceError) as heavy, admission.hold(items=1, size=501):
            pytest.fail("admitted past the limit")
        with admission.hold(items=4, size=500):
            pass
    assert full.value.reason == heavy.value.reason == "QUEUE_FULL"
    assert full.value.metadata == {"waiting": "10", "limit": "10"}


def test_a_request_over_the_limit_runs_alone() -> None:
    admission = Admission("images", max_items=2, max_bytes=10)
    with admission.hold(items=5, size=100):
        pass


def test_permits_come_back_when_the_work_fails() -> None:
    admission = Admission("images", max_items=1, max_bytes=10)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), admission.hold(items=1, size=10):
            raise ZeroDivisionError
