from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest

from eif_engine.data.images import ImageLimits
from eif_engine.data.preprocessing import Preprocessing
from eif_engine.errors import EifError, ImageInvalid
from services.embedding.images import ImageLoader, ImageSource
from tests.onnx_bundles import SIDE, png, prepared
from tests.stores import local_place

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.stores import Place

PREPROCESSING = Preprocessing.model_validate({"mode": "L", "resize": [SIDE, SIDE], "mean": [0.5], "std": [0.5]})


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return local_place(tmp_path)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


def sources(*items: bytes | str) -> list[ImageSource]:
    return [
        ImageSource(field=f"images[{at}]", content=item)
        if isinstance(item, bytes)
        else ImageSource(field=f"images[{at}]", uri=item)
        for at, item in enumerate(items)
    ]


async def test_bytes_and_objects_come_in_the_order_of_the_request(place: Place, threads: ThreadPoolExecutor) -> None:
    place.store.put(place.uri("1.png"), png(1))
    loader = ImageLoader(place.store, ImageLimits(), threads)
    images = await loader.load(sources(png(0), place.uri("1.png"), png(2)), PREPROCESSING)
    np.testing.assert_array_equal(np.stack(images), np.stack([prepared(seed) for seed in range(3)]))


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"no image", "IMAGE_INVALID"),
        (b"", "IMAGE_INVALID"),
        (png(0)[:70], "IMAGE_INVALID"),
        ("missing.png", "OBJECT_NOT_FOUND"),
        ("large.png", "OBJECT_TOO_LARGE"),
        ("https://example.org/a.png", "URI_NOT_ALLOWED"),
    ],
)
async def test_what_is_wrong_names_the_image(
    place: Place, threads: ThreadPoolExecutor, bad: bytes | str, reason: str
) -> None:
    place.store.put(place.uri("large.png"), bytes(2000))
    loader = ImageLoader(place.store, ImageLimits(max_bytes=1000), threads)
    bad = place.uri(bad) if isinstance(bad, str) and "://" not in bad else bad
    with pytest.raises(EifError) as caught:
        await loader.load(sources(png(0), png(1), png(2), bad, b"worse"), PREPROCESSING)
    assert caught.value.reason == reason
    assert caught.value.message.startswith("images[3]: ")
    assert str(caught.value) == caught.value.message
    assert caught.value.metadata["field"] == "images[3]"
    if isinstance(bad, str):
        assert bad in caught.value.message


async def test_a_file_over_the_limit_is_refused_by_its_size(place: Place, threads: ThreadPoolExecutor) -> None:
    loader = ImageLoader(place.store, ImageLimits(max_bytes=10), threads)
    with pytest.raises(ImageInvalid, match=r"images\[0\].*over the limit of 10"):
        await loader.load(sources(png(0)), PREPROCESSING)


async def test_cancelled_loading_leaves_the_rest_undone(place: Place) -> None:
    started, release, decoded = threading.Event(), threading.Event(), []

    class Slow(ImageLoader):
        def _bytes(self, source: ImageSource) -> bytes:
            decoded.append(source.field)
            started.set()
            assert release.wait(10)
            return png(0)

    with ThreadPoolExecutor(1) as one_thread:
        loader = Slow(place.store, ImageLimits(), one_thread)
        loading = asyncio.create_task(loader.load(sources(*[png(0)] * 8), PREPROCESSING))
        await asyncio.to_thread(started.wait, 10)
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        release.set()
    assert decoded == ["images[0]"]
