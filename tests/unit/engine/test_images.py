from __future__ import annotations

import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from eif_engine.data.images import FORMATS, ImageLimits, decode_image
from eif_engine.errors import ImageInvalid

GRADIENT = np.add.outer(np.arange(40) * 3, np.arange(60) * 2).astype(np.uint8)


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(image: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(image)


def fault(data: bytes, limits: ImageLimits | None = None) -> str:
    with pytest.raises(ImageInvalid) as caught:
        decode_image(data, limits=limits or ImageLimits(), uri="s3://b/a.png")
    assert caught.value.metadata == {"uri": "s3://b/a.png"}
    assert caught.value.message.startswith("s3://b/a.png: ")
    return caught.value.message


def png(header: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG written chunk by chunk, so that its header may say anything."""
    body = b"\x89PNG\r\n\x1a\n"
    for name, content in ((b"IHDR", header), *chunks, (b"IEND", b"")):
        body += struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return body


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_read(kind: str) -> None:
    image = Image.fromarray(np.stack([GRADIENT, 255 - GRADIENT, GRADIENT // 2], axis=2))
    options: dict[str, object] = {"quality": 95} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    decoded = decode_image(encode(image, kind, **options))
    assert decoded.mode == "RGB"
    assert np.abs(pixels(decoded).astype(int) - pixels(image)).mean() < (8 if kind in {"JPEG", "GIF"} else 1e-9)


def test_grey_stays_grey_and_exact() -> None:
    decoded = decode_image(encode(Image.fromarray(GRADIENT)))
    assert decoded.mode == "L"
    assert (pixels(decoded) == GRADIENT).all()


def test_sixteen_bit_grey_is_scaled_and_not_clipped() -> None:
    values = np.array([[0, 256, 257, 32896, 65534, 65535]], dtype=np.uint16)
    for kind in ("PNG", "TIFF"):
        decoded = decode_image(encode(Image.fromarray(values), kind))
        assert pixels(decoded).tolist() == [[0, 1, 1, 128, 255, 255]]


def test_sixteen_bit_tiff_that_stores_white_as_zero_is_turned_round() -> None:
    values = np.array([[0, 65535]], dtype=np.uint16)
    data = encode(Image.fromarray(values), "TIFF", tiffinfo={262: 0})
    assert pixels(decode_image(data)).tolist() == [[255, 0]]


def test_sixteen_bit_grey_with_a_transparent_level_is_laid_on_white() -> None:
    values = struct.pack(">BHHH", 0, 0, 1000, 65535)
    header = struct.pack(">IIBBBBB", 3, 1, 16, 0, 0, 0, 0)
    data = png(header, (b"tRNS", struct.pack(">H", 1000)), (b"IDAT", zlib.compress(values)))
    assert pixels(decode_image(data)).tolist() == [[0, 255, 255]]


def test_sixteen_bit_colour_is_scaled() -> None:
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    data = png(header, (b"IDAT", zlib.compress(struct.pack(">B6H", 0, 0, 32896, 65535, 65535, 0, 257))))
    assert pixels(decode_image(data)).tolist() == [[[0, 128, 255], [255, 0, 1]]]


def test_one_bit_becomes_black_and_white() -> None:
    decoded = decode_image(encode(Image.fromarray(GRADIENT > 100)))
    assert decoded.mode == "L"
    assert (pixels(decoded) == np.where(GRADIENT > 100, 255, 0)).all()


def test_palette_with_transparency_is_laid_on_white() -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    assert pixels(decode_image(encode(image))).tolist() == [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]]
    by_index = decode_image(encode(image, transparency=1))
    assert pixels(by_index).tolist() == [[[10, 20, 30], [255, 255, 255], [70, 80, 90]]]
    by_table = decode_image(encode(image, transparency=bytes([255, 0, 255])))
    assert pixels(by_table).tolist() == [[[10, 20, 30], [255, 255, 255], [70, 80, 90]]]


def test_alpha_is_laid_on_white() -> None:
    colour = Image.new("RGBA", (2, 1))
    colour.putdata([(200, 100, 0, 255), (200, 100, 0, 51)])
    assert pixels(decode_image(encode(colour))).tolist() == [[[200, 100, 0], [244, 224, 204]]]
    grey = Image.new("LA", (3, 1))
    grey.putdata([(100, 255), (100, 0), (0, 51)])
    decoded = decode_image(encode(grey))
    assert decoded.mode == "L"
    assert pixels(decoded).tolist() == [[100, 255, 204]]


def test_cmyk_jpeg_becomes_colour() -> None:
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    mean = pixels(decode_image(encode(red, "JPEG", quality=95))).reshape(-1, 3).mean(axis=0)
    assert np.abs(mean - [255, 0, 0]).max() < 6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(GRADIENT), exif=exif)
    turned = {
        1: GRADIENT,
        2: GRADIENT[:, ::-1],
        3: GRADIENT[::-1, ::-1],
        4: GRADIENT[::-1],
        5: GRADIENT.T,
        6: np.rot90(GRADIENT, -1),
        7: GRADIENT[::-1, ::-1].T,
        8: np.rot90(GRADIENT),
    }[orientation]
    assert (pixels(decode_image(data)) == turned).all()


@pytest.mark.parametrize("mode", ["RGBA", "P", "I;16"])
def test_exif_orientation_is_applied_after_conversion_too(mode: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    source = Image.fromarray(GRADIENT.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(GRADIENT)
    data = encode(source if mode == "I;16" else source.convert(mode), exif=exif)
    assert (pixels(decode_image(data).convert("L")) == np.rot90(GRADIENT, -1)).all()


def test_animation_and_pages_give_the_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP", "TIFF"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert pixels(decode_image(data))[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_a_truncated_file_is_refused(kind: str, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), kind)
    message = fault(data[: int(len(data) * kept)])
    assert "truncated" in message or "not an image" in message


@pytest.mark.parametrize(
    "data", [b"", b"\x00" * 100, b"%PDF-1.7 ...", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\x89PNG\r\n\x1a\n"]
)
def test_what_is_no_image_is_refused(data: bytes) -> None:
    message = fault(data)
    assert "empty" in message if not data else "not an image that can be read; known are JPEG, PNG" in message


def test_formats_that_are_not_listed_are_refused() -> None:
    for kind in ("PPM", "ICO", "TGA", "EPS"):
        assert "not an image that can be read" in fault(encode(Image.new("RGB", (16, 16)), kind))


def test_limits_come_before_decoding() -> None:
    data = encode(Image.new("RGB", (100, 50)))
    assert "100 x 50 = 5,000 pixels, over the limit of 4,999" in fault(data, ImageLimits(max_pixels=4_999))
    assert f"{len(data):,} bytes, over the limit of 10" in fault(data, ImageLimits(max_bytes=10))
    assert decode_image(data, limits=ImageLimits(max_pixels=5_000, max_bytes=len(data))).size == (100, 50)


@pytest.mark.parametrize(("width", "height"), [(9_000, 9_000), (10_000, 10_000), (20_000, 20_000), (60_000, 60_000)])
def test_a_header_that_claims_a_huge_image_is_refused_at_once(width: int, height: int) -> None:
    data = png(struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), (b"IDAT", zlib.compress(b"\0" * 1000)))
    message = fault(data)
    assert "pixels" in message
    assert "limit" in message


def test_a_real_bomb_of_few_bytes_is_refused() -> None:
    data = encode(Image.new("1", (9_000, 9_000)))
    assert len(data) < 20_000
    assert "9000 x 9000 = 81,000,000 pixels" in fault(data)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_without_an_agreed_white_are_refused_with_advice(mode: str) -> None:
    assert "convert it to 8 or 16 bits" in fault(encode(Image.new(mode, (4, 4)), "TIFF"))


def test_odd_metadata_is_no_reason_to_fail_or_to_warn() -> None:
    broken = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHII", 5, 0x0110, 2, 1000, 0xFFFFFF)
    data = encode(Image.fromarray(GRADIENT), "JPEG", quality=100, exif=broken)
    with pytest.warns(UserWarning, match="Corrupt EXIF|larger than file"):
        Image.open(BytesIO(data)).load()
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        assert decode_image(data).size == (60, 40)
    assert heard == []


def test_decoding_from_many_threads_leaves_warning_filters_as_they_are() -> None:
    data = [encode(Image.fromarray(GRADIENT), kind) for kind in ("PNG", "TIFF", "BMP")]
    decode_image(data[0])
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        images = list(pool.map(decode_image, data * 50))
    assert len(images) == 150
    assert list(warnings.filters) == before


@given(st.binary(max_size=200), st.sampled_from(FORMATS), st.integers(0, 200))
def test_damaged_bytes_are_an_image_or_a_reason(junk: bytes, kind: str, at: int) -> None:
    whole = encode(Image.fromarray(GRADIENT), kind)
    data = whole[:at] + junk + whole[at + len(junk) :]
    try:
        mode = decode_image(data).mode
    except ImageInvalid:
        return
    assert mode in {"L", "RGB"}


def test_one_bit_drawings_of_omniglot_are_read(shared_dir: Path) -> None:
    with ZipFile(shared_dir / "data" / "omniglot_background_small1.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".png")][::500]
        for name in names:
            decoded = decode_image(archive.read(name))
            assert (decoded.mode, decoded.size) == ("L", (105, 105))
            assert set(np.unique(pixels(decoded))) == {0, 255}
