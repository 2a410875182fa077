from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from eif_engine.data.images import ImageLimits
from services.influence.worker.report.limits import MAX_THUMBNAILS
from services.influence.worker.report.source import SampleKey
from services.influence.worker.report.thumbnails import BATCH, EDGE, in_order_of_need, read_thumbnails, thumbnail
from tests.report_sources import photo


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    out = BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def decoded(jpeg: bytes | None) -> Image.Image:
    assert jpeg is not None
    image = Image.open(BytesIO(jpeg))
    assert image.format == "JPEG"
    return image


@pytest.mark.parametrize(
    ("size", "expected"), [((400, 200), (96, 48)), ((200, 400), (48, 96)), ((40, 30), (40, 30)), ((5000, 2), (96, 1))]
)
def test_the_longest_side_is_bounded_and_nothing_is_enlarged(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert decoded(thumbnail(encoded(Image.new("RGB", size)))).size == expected


def test_a_photograph_takes_a_few_kilobytes() -> None:
    picture = thumbnail(photo(1, edge=800))
    assert picture is not None
    assert len(picture) < 8000


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_usual_mode_is_read(mode: str) -> None:
    form = "TIFF" if mode == "CMYK" else "PNG"
    assert decoded(thumbnail(encoded(Image.new(mode, (20, 20)), form))).mode in {"L", "RGB"}


def test_transparency_is_laid_on_white() -> None:
    image = decoded(thumbnail(encoded(Image.new("RGBA", (20, 20), (255, 0, 0, 0)))))
    assert np.asarray(image).min() > 250


def test_it_is_turned_as_exif_says_and_keeps_no_metadata() -> None:
    source = Image.new("RGB", (40, 20), "white")
    source.paste("black", (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right by 90 degrees
    exif[0x010E] = "where it was taken"
    turned = decoded(thumbnail(encoded(source, "JPEG", exif=exif, comment=b"private", icc_profile=b"p" * 500)))
    assert turned.size == (20, 40)
    assert np.asarray(turned.convert("L"))[5, 10] < 50  # the left half is on top
    assert not turned.getexif()
    assert "comment" not in turned.info
    assert "icc_profile" not in turned.info


def test_what_cannot_be_read_has_no_thumbnail() -> None:
    png = encoded(Image.new("RGB", (50, 50)))
    for data in (b"", b"not an image", png[: len(png) // 2], b"GIF89a" + b"\0" * 30):
        assert thumbnail(data) is None


def test_a_decompression_bomb_is_refused_before_it_is_decoded() -> None:
    bomb = encoded(Image.new("1", (20_000, 20_000)))
    assert len(bomb) < 100_000
    assert thumbnail(bomb) is None
    small = encoded(Image.new("L", (100, 100)))
    assert thumbnail(small, limits=ImageLimits(max_pixels=9_999)) is None
    assert thumbnail(small, limits=ImageLimits(max_bytes=10)) is None


def test_the_same_image_gives_the_same_thumbnail() -> None:
    assert thumbnail(photo(2)) == thumbnail(photo(2))


def test_the_first_row_of_every_section_comes_before_any_second_row() -> None:
    sections = [[[1, 2], [3, 1]], [[4], [5], [6]], []]
    assert list(in_order_of_need(sections)) == [1, 2, 4, 3, 5, 6]
    assert list(in_order_of_need([[[-1, 2]]])) == [2]


class Shelf:
    """Gives pictures of one size; knows nothing about samples whose number is divisible by 10."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.asked: list[SampleKey] = []

    def __call__(self, keys: Sequence[SampleKey]) -> dict[SampleKey, bytes]:
        assert len(keys) <= BATCH
        self.asked += keys
        return {key: b"x" * self.size for key in keys if int(key[1]) % 10}


def test_pictures_are_read_by_need_until_their_bytes_are_used_up() -> None:
    keys = [("train", str(place)) for place in range(1000)]
    shelf = Shelf(size=100)
    found = read_thumbnails(shelf, keys, range(999, -1, -1), max_bytes=10_050)
    assert list(found) == [place for place in range(999, -1, -1) if place % 10][:100]
    assert len(shelf.asked) == BATCH  # no more is read than is needed to know


def test_no_more_are_read_than_the_limit() -> None:
    keys = [("test", str(place)) for place in range(MAX_THUMBNAILS + 500)]
    shelf = Shelf(size=1)
    read_thumbnails(shelf, keys, range(len(keys)), max_bytes=10**9)
    assert len(shelf.asked) == MAX_THUMBNAILS


def test_a_picture_that_is_no_thumbnail_is_left_out() -> None:
    assert read_thumbnails(Shelf(size=50_000), [("train", "1")], [0], max_bytes=10**9) == {}


def test_a_thumbnail_is_never_larger_than_the_edge() -> None:
    assert max(decoded(thumbnail(photo(3, edge=EDGE + 1))).size) == EDGE
