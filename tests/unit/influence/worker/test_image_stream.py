from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from eif_engine.data.images import decode_image
from eif_engine.data.preprocessing import ImageMode, Preprocessing
from eif_engine.types import Quarantined, Sample
from services.influence.spec import RankSpec
from services.influence.worker.cancellation import Cancellation
from services.influence.worker.image_stream import Image, stream_images
from services.influence.worker.job import Job
from services.influence.worker.progress import JobProgress
from tests.job_world import SETTINGS, SIDE, JobWorld, picture

SMALL = Preprocessing(mode=ImageMode.GRAY, resize=(SIDE, SIDE))
LARGE = Preprocessing(resize=(512, 512))
"""Each image takes 3 MiB there: more than a thread takes at a time."""


@pytest.fixture
def world(tmp_path: Path) -> JobWorld:
    return JobWorld(tmp_path)


@pytest.fixture
def job(world: JobWorld, tmp_path: Path) -> Iterator[Job]:
    manifest = world.manifest("m.jsonl", [])
    spec = RankSpec(model=world.bundle(), train_manifest=manifest, test_manifest=manifest)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with Job(
        request=world.request(spec),
        store=world.store,
        settings=SETTINGS,
        scratch=scratch,
        progress=JobProgress((), send=lambda _message: None, check=lambda: None),
        cancellation=Cancellation(),
    ) as opened:
        yield opened


def put(world: JobWorld, name: str, data: bytes) -> Sample:
    return Sample(sample_id=name, uri=world.put(f"{name}.png", data), label="ant")


def nothing_known(digests_N: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return np.zeros(len(digests_N), dtype=np.bool_)


@pytest.mark.parametrize("preprocessing", [SMALL, LARGE], ids=["many in a chunk", "one in a chunk"])
@pytest.mark.parametrize("count", [0, 1, 16, 37])
def test_images_come_in_their_order_with_their_rows(
    world: JobWorld, job: Job, preprocessing: Preprocessing, count: int
) -> None:
    files = [picture(number % 3, seed=number) for number in range(count)]
    rows = [(7 * number, put(world, f"{number}", data)) for number, data in enumerate(files)]
    found = list(stream_images(job, rows, preprocessing=preprocessing, known=nothing_known))
    assert [image.row for image in found if isinstance(image, Image)] == [row for row, _ in rows]
    for image, data in zip(found, files, strict=True):
        assert isinstance(image, Image)
        assert image.digest.tobytes() == hashlib.sha256(data).digest()
        assert image.pixels_CHW is not None
        assert np.array_equal(image.pixels_CHW, preprocessing.apply(decode_image(data)))


def test_what_is_known_is_not_decoded_and_what_is_broken_keeps_its_place(world: JobWorld, job: Job) -> None:
    known = b"no image at all, but its features are known"
    samples = [
        put(world, "first", picture(0, seed=0)),
        put(world, "broken", b"not an image"),
        put(world, "known", known),
        Sample(sample_id="missing", uri=world.place.uri("missing.png"), label="ant"),
        put(world, "last", picture(1, seed=1)),
    ]

    def is_known(digests_N: NDArray[np.uint8]) -> NDArray[np.bool_]:
        return np.array([digest.tobytes() == hashlib.sha256(known).digest() for digest in digests_N])

    found = list(stream_images(job, enumerate(samples), preprocessing=SMALL, known=is_known))
    assert [each.reason if isinstance(each, Quarantined) else each.row for each in found] == [
        0,
        "IMAGE_INVALID",
        2,
        "OBJECT_NOT_FOUND",
        4,
    ]
    assert isinstance(found[2], Image)
    assert found[2].pixels_CHW is None
