"""From a decoded image to the array that a network takes; part of model.json and onnx.json.

The same numpy code feeds PyTorch and ONNX Runtime, so that both see the same numbers. It equals torchvision's pipeline
on PIL images, `Resize, CenterCrop, ToTensor, Normalize`, bit for bit.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator

from eif_engine.errors import ImageInvalid

MAX_SIDE = 4096
"""Largest side of what a network takes, in pixels."""

MAX_RESIZED_PIXELS = 50_000_000
"""Largest image between resize and crop: a 50,000 x 1 strip would grow to thousands of megapixels."""


class ImageMode(StrEnum):
    """Channels of the network's input."""

    RGB = "RGB"
    GRAY = "L"


class Interpolation(StrEnum):
    """How pixels are resampled; all of Pillow's filters, which average over the source when they shrink."""

    NEAREST = "nearest"
    BOX = "box"
    BILINEAR = "bilinear"
    HAMMING = "hamming"
    BICUBIC = "bicubic"
    LANCZOS = "lanczos"


_RESAMPLING = {mode: Image.Resampling[mode.name] for mode in Interpolation}
_CHANNELS = {ImageMode.RGB: 3, ImageMode.GRAY: 1}

Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Preprocessing(BaseModel):
    """Steps in the order they are taken: mode, resize, center_crop, invert, divide, normalise.

    Attributes:
        mode: Colour or grey; images of the other kind are converted (grey by ITU-R 601).
        resize: Length of the shorter side (the other keeps the aspect), or (height, width).
        center_crop: Side of a square, or (height, width), cut from the middle. Needed when `resize` is one number,
            because all images of a batch have one shape.
        interpolation: Filter of the resize.
        invert: Turn 0..255 into 255..0, for a network trained on light strokes on a dark ground.
        divisor: Pixels are divided by it: 255 gives 0..1.
        mean: Subtracted after the division; one number, or one a channel.
        std: Divided by after that; one number, or one a channel.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: ImageMode = ImageMode.RGB
    resize: Side | tuple[Side, Side]
    center_crop: Side | tuple[Side, Side] | None = None
    interpolation: Interpolation = Interpolation.BILINEAR
    invert: bool = False
    divisor: Positive = 255.0
    mean: tuple[Finite, ...] = (0.0,)
    std: tuple[Positive, ...] = (1.0,)

    @model_validator(mode="after")
    def _one_shape(self) -> Preprocessing:
        if self.center_crop is None and isinstance(self.resize, int):
            raise ValueError(
                "resize is the shorter side alone, so images of different aspect would have different shapes: "
                "add center_crop, or give resize as [height, width]"
            )
        crop, resized = self._crop_size(), self.resize if isinstance(self.resize, tuple) else (self.resize, self.resize)
        if crop is not None and (crop[0] > resized[0] or crop[1] > resized[1]):
            raise ValueError(f"center_crop {list(crop)} is larger than what resize leaves, {list(resized)}")
        return self

    @model_validator(mode="after")
    def _one_number_a_channel(self) -> Preprocessing:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in {1, self.channels}:
                raise ValueError(
                    f"{name} has {len(values)} numbers, but mode {self.mode} has {self.channels} channel(s): "
                    "give one number, or one a channel"
                )
        return self

    @property
    def channels(self) -> int:
        """C."""
        return _CHANNELS[self.mode]

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        size = self._crop_size() or self.resize
        if isinstance(size, int):  # ruled out by validation
            raise TypeError("resize by the shorter side has no crop")
        return (self.channels, *size)

    def seen_box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The part of an image of this size that the network sees, in its own pixels: left, top, right, bottom."""
        rows, columns = self._resized_size(height, width)
        seen_rows, seen_columns = self._crop_size() or (rows, columns)
        top, left = round((rows - seen_rows) / 2.0), round((columns - seen_columns) / 2.0)
        across, down = width / columns, height / rows
        return left * across, top * down, (left + seen_columns) * across, (top + seen_rows) * down

    def apply(self, image: Image.Image) -> NDArray[np.float32]:
        """Turn an image, as `decode_image` returns it, into a contiguous (C, H, W) array.

        Raises:
            ImageInvalid: The aspect is so extreme that resizing by the shorter side would not fit in memory.
        """
        if image.mode != self.mode.value:
            image = image.convert(self.mode.value)
        image = self._crop(self._resize(image))
        pixels_HWC = np.asarray(image).reshape(image.height, image.width, self.channels)
        if self.invert:
            pixels_HWC = 255 - pixels_HWC
        values_CHW = np.ascontiguousarray(pixels_HWC.transpose(2, 0, 1), dtype=np.float32)
        values_CHW /= np.float32(self.divisor)
        values_CHW -= _a_channel(self.mean)
        values_CHW /= _a_channel(self.std)
        return values_CHW

    def _crop_size(self) -> tuple[int, int] | None:
        return (self.center_crop, self.center_crop) if isinstance(self.center_crop, int) else self.center_crop

    def _resize(self, image: Image.Image) -> Image.Image:
        height, width = self._resized_size(image.height, image.width)
        if (width, height) == image.size:
            return image
        if height * width > MAX_RESIZED_PIXELS:
            raise ImageInvalid(
                f"an image of {image.width} x {image.height} pixels would become {width} x {height} when its shorter "
                f"side is resized to {self.resize}: its aspect is too extreme",
                width=image.width,
                height=image.height,
            )
        return image.resize((width, height), _RESAMPLING[self.interpolation])

    def _resized_size(self, height: int, width: int) -> tuple[int, int]:
        if isinstance(self.resize, tuple):
            return self.resize
        if height <= width:
            return self.resize, int(self.resize * width / height)
        return int(self.resize * height / width), self.resize

    def _crop(self, image: Image.Image) -> Image.Image:
        size = self._crop_size()
        if size is None:
            return image
        height, width = size
        top, left = round((image.height - height) / 2.0), round((image.width - width) / 2.0)
        return image.crop((left, top, left + width, top + height))


def _a_channel(values: tuple[float, ...]) -> NDArray[np.float32]:
    return np.asarray(values, dtype=np.float32).reshape(-1, 1, 1)
