from __future__ import annotations

import pytest

from eif_engine.errors import TooManyQuarantined
from eif_engine.types import Quarantined
from services.influence.worker.quarantine import Quarantine


def entry(number: int) -> Quarantined:
    return Quarantined(
        sample_id=f"s{number}", uri=f"s3://b/{number}.png", reason="IMAGE_INVALID", message="not an image"
    )


def test_the_limit_is_a_share_of_the_split() -> None:
    quarantine = Quarantine(0.1)
    for number in range(2):
        quarantine.add("train", entry(number), total=20)
    quarantine.add("test", entry(9), total=10)
    assert quarantine.count == 3
    assert [(split, each.sample_id) for split, each in quarantine.entries()] == [
        ("train", "s0"),
        ("train", "s1"),
        ("test", "s9"),
    ]
    with pytest.raises(TooManyQuarantined) as caught:
        quarantine.add("train", entry(2), total=20)
    assert caught.value.metadata == {"split": "train", "quarantined": "3", "total": "20", "limit": "2"}


def test_the_error_names_counts_and_the_first_samples() -> None:
    quarantine = Quarantine(0.5)
    for number in range(5):
        quarantine.add("test", entry(number), total=10)
    with pytest.raises(TooManyQuarantined) as caught:
        quarantine.add("test", entry(5), total=10)
    message = caught.value.message
    assert message.startswith("6 of the 10 test samples could not be read so far, and 5 are allowed")
    assert "s0 (IMAGE_INVALID: not an image); s1" in message
    assert message.endswith("and 3 more")


def test_one_sample_at_least_must_be_left() -> None:
    quarantine = Quarantine(1.0)
    quarantine.add("train", entry(0), total=2)
    with pytest.raises(TooManyQuarantined):
        quarantine.add("train", entry(1), total=2)
