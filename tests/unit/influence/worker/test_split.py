from __future__ import annotations

from eif_engine.types import Sample
from services.influence.worker.split import DIGEST_BYTES, Split

DIGEST = bytes(range(32)).hex()
SAMPLES = [
    Sample(sample_id="a", uri="s3://b/a.png", label="x", sha256=DIGEST, line=1),
    Sample(sample_id="b", uri="s3://b/t.tar", label="y", member="b.png", line=3),
    Sample(sample_id="c", uri="s3://b/c.png", label="x", line=4, extra={"annotator": "ann"}),
]


def split(samples: list[Sample]) -> Split:
    return Split("train", uri="s3://b/m.jsonl", sha256="0" * 64, samples=samples)


def test_samples_come_back_as_they_were_without_extra_columns() -> None:
    found = split(SAMPLES)
    assert [found.sample(row) for row in range(2)] == SAMPLES[:2]
    assert found.sample(2) == Sample(sample_id="c", uri="s3://b/c.png", label="x", line=4)


def test_columns() -> None:
    found = split(SAMPLES)
    assert len(found) == 3
    assert found.sample_ids == ["a", "b", "c"]
    assert found.labels == ["x", "y", "x"]
    assert found.has_digest().tolist() == [True, False, False]
    assert found.digests().shape == (3, DIGEST_BYTES)
    assert bytes(found.digests()[0]).hex() == DIGEST


def test_no_samples() -> None:
    assert split([]).digests().shape == (0, DIGEST_BYTES)
