"""From the bytes of an image file to 8-bit grey or colour, within limits that are checked before anything is decoded.

What a person sees in a viewer is what the network gets: EXIF orientation is applied, transparency is laid on white, and
16-bit grey is scaled to 8 bits. Of animations and multi-page files the first frame counts. Colour profiles are ignored.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image, ImageOps

from eif_engine.errors import ImageInvalid

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
"""What is decoded, told by content and never by name."""

_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # TIFF 6.0
_SIXTEEN_BITS = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})
_NO_WHITE_LEVEL = frozenset({"I", "F"})
_QUIET_PILLOW = ("ignore", None, Warning, re.compile(r"PIL\."), 0)


@dataclass(frozen=True, kw_only=True)
class ImageLimits:
    """Largest file and largest image."""

    max_bytes: int = 20 * 2**20
    max_pixels: int = 50_000_000


DEFAULT_LIMITS = ImageLimits()


def decode_image(data: bytes, *, limits: ImageLimits = DEFAULT_LIMITS, uri: str = "") -> Image.Image:
    """Decode an image file to mode `L` or `RGB`.

    Args:
        data: The file.
        limits: Largest file and largest image.
        uri: Where it came from, for the error.

    Raises:
        ImageInvalid: Not an image of FORMATS, truncated, over a limit, or of a kind with no agreed meaning in 8 bits.
    """
    try:
        if len(data) > limits.max_bytes:
            raise _invalid(f"{len(data):,} bytes, over the limit of {limits.max_bytes:,}")
        return _decode(data, limits)
    except ImageInvalid as error:
        where = {"uri": uri} if uri else {}
        raise ImageInvalid(f"{uri or 'image'}: {error.message}", **where) from error.__cause__


def _decode(data: bytes, limits: ImageLimits) -> Image.Image:
    _ignore_pillow_warnings()
    with _open(data) as image:
        _check_size(image, limits)
        try:
            image.load()
            return ImageOps.exif_transpose(_to_eight_bits(image))
        except ImageInvalid:
            raise
        except Exception as error:  # decoders raise anything on hostile bytes
            raise _invalid(f"damaged or truncated {image.format} file: {error}") from error


def _open(data: bytes) -> Image.Image:
    if not data:
        raise _invalid("the file is empty")
    try:
        return Image.open(BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise _invalid(f"too many pixels: {error}") from error
    except Exception as error:  # decoders raise anything on hostile bytes
        raise _invalid(f"not an image that can be read; known are {', '.join(FORMATS)}") from error


def _check_size(image: Image.Image, limits: ImageLimits) -> None:
    pixels = image.width * image.height
    if pixels > limits.max_pixels:
        raise _invalid(f"{image.width} x {image.height} = {pixels:,} pixels, over the limit of {limits.max_pixels:,}")


def _to_eight_bits(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BITS:
        return _scale_sixteen_bits(image)
    if image.mode in _NO_WHITE_LEVEL:
        raise _invalid(f"pixels of 32 bits (mode {image.mode}) have no agreed white: convert it to 8 or 16 bits")
    if image.has_transparency_data:
        return _on_white(image)
    if image.mode in {"1", "L"}:
        return image.convert("L")
    return image.convert("RGB")


def _scale_sixteen_bits(image: Image.Image) -> Image.Image:
    tags = getattr(image, "tag_v2", {})
    white = 2 ** int(tags.get(_BITS_PER_SAMPLE, (16,))[0]) - 1
    values = np.asarray(image).astype(np.uint32)
    pixels = ((values.clip(max=white) * 255 + white // 2) // white).astype(np.uint8)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        pixels = 255 - pixels
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        pixels[values == transparent] = 255
    scaled = Image.fromarray(pixels)
    scaled.info = {key: image.info[key] for key in ("exif",) if key in image.info}
    return scaled


def _on_white(image: Image.Image) -> Image.Image:
    grey = image.mode in {"1", "L", "LA", "La"}
    layer = image.convert("RGBA")
    canvas = Image.new("RGB", image.size, "white")
    canvas.paste(layer, mask=layer.getchannel("A"))
    canvas.info = image.info
    return canvas.convert("L") if grey else canvas


def _invalid(message: str) -> ImageInvalid:
    return ImageInvalid(message)


def _ignore_pillow_warnings() -> None:
    """Keep Pillow's remarks on odd metadata out of the logs.

    Not `warnings.catch_warnings`, which swaps the process-wide filters back and forth and so races between threads.
    """
    if warnings.filters[:1] != [_QUIET_PILLOW]:
        warnings.filterwarnings("ignore", module=_QUIET_PILLOW[3].pattern)
