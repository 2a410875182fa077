from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from pydantic import ValidationError
from torchvision import transforms

from eif_engine.data.preprocessing import Interpolation, Preprocessing
from eif_engine.errors import ImageInvalid

MODES = {
    Interpolation.NEAREST: transforms.InterpolationMode.NEAREST,
    Interpolation.BOX: transforms.InterpolationMode.BOX,
    Interpolation.BILINEAR: transforms.InterpolationMode.BILINEAR,
    Interpolation.HAMMING: transforms.InterpolationMode.HAMMING,
    Interpolation.BICUBIC: transforms.InterpolationMode.BICUBIC,
    Interpolation.LANCZOS: transforms.InterpolationMode.LANCZOS,
}
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    return Image.fromarray(np.random.default_rng(width * 1000 + height).integers(0, 256, shape, dtype=np.uint8))


def torchvision_pipeline(steps: Preprocessing, image: Image.Image) -> NDArray[np.float32]:
    size = steps.resize if isinstance(steps.resize, int) else list(steps.resize)
    pipeline: list[Any] = [transforms.Resize(size, MODES[steps.interpolation])]
    if steps.center_crop is not None:
        pipeline.append(transforms.CenterCrop(steps.center_crop))
    if steps.invert:
        pipeline.append(ImageOps.invert)
    pipeline += [transforms.ToTensor(), transforms.Normalize(steps.mean, steps.std)]
    tensor: torch.Tensor = transforms.Compose(pipeline)(image.convert(steps.mode.value))
    array: NDArray[np.float32] = tensor.numpy()
    return array


@pytest.mark.parametrize("interpolation", Interpolation)
@pytest.mark.parametrize("size", [(256, 256), (300, 200), (199, 301), (224, 224), (31, 500), (225, 224), (1, 1)])
def test_it_equals_torchvision_bit_for_bit(interpolation: Interpolation, size: tuple[int, int]) -> None:
    image = noise(*size)
    for steps in (
        Preprocessing(resize=64, center_crop=56, interpolation=interpolation, **IMAGENET),
        Preprocessing(resize=65, center_crop=(56, 33), interpolation=interpolation, mean=(0.5,), std=(0.5,)),
        Preprocessing(resize=(48, 80), interpolation=interpolation, **IMAGENET),
    ):
        ours = steps.apply(image)
        assert ours.shape == steps.output_shape
        assert ours.dtype == np.float32
        assert ours.flags.c_contiguous
        assert (ours == torchvision_pipeline(steps, image)).all()


@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize("source", ["L", "RGB"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_colours_are_converted_as_torchvision_sees_them(mode: str, source: str, invert: bool) -> None:
    steps = Preprocessing.model_validate(
        {"mode": mode, "resize": [28, 28], "invert": invert, "mean": [0.5], "std": [0.25]}
    )
    image = noise(40, 30, source)
    ours = steps.apply(image)
    assert ours.shape == ((3 if mode == "RGB" else 1), 28, 28)
    assert (ours == torchvision_pipeline(steps, image)).all()


def test_divisor_one_leaves_pixels_at_their_level() -> None:
    image = noise(20, 20)
    ours = Preprocessing(resize=(20, 20), divisor=1.0, mean=(104.0, 117.0, 128.0)).apply(image)
    expected = np.asarray(image).transpose(2, 0, 1).astype(np.float32) - np.array([104, 117, 128]).reshape(3, 1, 1)
    assert (ours == expected).all()


def test_the_image_is_left_as_it_was() -> None:
    image = noise(30, 20)
    before = image.tobytes()
    Preprocessing(resize=16, center_crop=16, invert=True).apply(image)
    assert (image.size, image.mode, image.tobytes()) == ((30, 20), "RGB", before)


def test_an_extreme_strip_is_refused_before_it_is_resized() -> None:
    with pytest.raises(ImageInvalid, match="aspect is too extreme"):
        Preprocessing(resize=256, center_crop=224).apply(Image.new("L", (1_000_000, 2)))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"resize": 32}, "add center_crop"),
        ({"resize": 32, "center_crop": 33}, "larger than what resize leaves"),
        ({"resize": [32, 16], "center_crop": [16, 32]}, "larger than what resize leaves"),
        ({"resize": [32, 32], "mean": [0.5, 0.5]}, "mean has 2 numbers, but mode RGB has 3"),
        ({"resize": [32, 32], "mode": "L", "std": [0.5, 0.5, 0.5]}, "std has 3 numbers, but mode L has 1"),
        ({"resize": [32, 32], "std": [0.0]}, "greater than 0"),
        ({"resize": [32, 32], "mean": [float("nan")]}, "finite"),
        ({"resize": [32, 32], "divisor": 0}, "greater than 0"),
        ({"resize": [0, 32]}, "greater than or equal to 1"),
        ({"resize": [100_000, 32]}, "less than or equal to 4096"),
        ({"resize": [32, 32], "mode": "CMYK"}, "'RGB' or 'L'"),
        ({"resize": [32, 32], "interpolation": "cubic"}, "'bicubic'"),
        ({"resize": [32, 32], "means": [0.5]}, "Extra inputs"),
        ({}, "Field required"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Preprocessing.model_validate(fields)


def test_it_survives_json() -> None:
    steps = Preprocessing(resize=64, center_crop=(56, 48), interpolation=Interpolation.LANCZOS, **IMAGENET)
    assert Preprocessing.model_validate_json(steps.model_dump_json()) == steps
