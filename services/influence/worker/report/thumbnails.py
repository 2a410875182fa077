"""Small pictures: made from image files, and chosen so that the page stays within its size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from itertools import zip_longest

from PIL import Image

from eif_engine.data.images import ImageLimits, decode_image
from eif_engine.errors import ImageInvalid
from services.influence.worker.report.limits import MAX_THUMBNAILS
from services.influence.worker.report.source import SampleKey, Thumbnails

EDGE = 96
"""Longest side, in pixels."""
QUALITY = 72
BATCH = 128
"""Pictures asked for at a time."""
MAX_BYTES = 12_000
"""Of one picture; no JPEG of this size and quality comes near it."""


def thumbnail(image_bytes: bytes, *, limits: ImageLimits | None = None) -> bytes | None:
    """A JPEG of at most 96 x 96 pixels as a viewer shows the image: turned as EXIF says, transparency on white.

    Args:
        image_bytes: The file.
        limits: Largest file and largest image, checked before anything is decoded.

    Returns:
        None where it is no image, damaged, or over a limit.
    """
    try:
        image = decode_image(image_bytes, limits=limits or ImageLimits())
    except ImageInvalid:
        return None
    image.thumbnail((EDGE, EDGE), Image.Resampling.LANCZOS, reducing_gap=2.0)
    image.info.clear()  # no colour profile, comment or EXIF goes into the page
    out = BytesIO()
    image.save(out, "JPEG", quality=QUALITY, optimize=True)
    return out.getvalue()


def in_order_of_need(sections: Sequence[Sequence[Sequence[int]]]) -> Iterator[int]:
    """Samples to show, each once: those of the first row of every section, then of the second, and so on."""
    seen: set[int] = set()
    for rows in zip_longest(*sections, fillvalue=()):
        for row in rows:
            for place in row:
                if place >= 0 and place not in seen:
                    seen.add(place)
                    yield place


def read_thumbnails(
    thumbnails: Thumbnails, keys: Sequence[SampleKey], order: Sequence[int], *, max_bytes: int
) -> Mapping[int, bytes]:
    """Pictures by number of the sample, until their bytes are used up.

    Args:
        thumbnails: Reads them.
        keys: Of the samples, by number.
        order: Numbers of the samples, the most needed first.
        max_bytes: Of all pictures together.
    """
    found: dict[int, bytes] = {}
    left = max_bytes
    wanted = order[:MAX_THUMBNAILS]
    for start in range(0, len(wanted), BATCH):
        batch = wanted[start : start + BATCH]
        pictures = thumbnails([keys[place] for place in batch])
        for place in batch:
            picture = pictures.get(keys[place])
            if not picture or len(picture) > MAX_BYTES:
                continue
            if len(picture) > left:
                return found
            found[place] = picture
            left -= len(picture)
    return found
