"""What ArcFace makes of the cosine of the label."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class AngularMargin:
    """`cos(theta + m)` of a cosine `c = cos(theta)`, and how it changes.

    Past `theta = pi - m` it is `c - m sin m` instead, as pytorch-metric-learning has it: still falling, but with a step
    at the edge (from -1 to -cos m - m sin m). Cosines are clamped to [-1, 1].

    Args:
        cosine: Of any shape; not changed.
        margin: m, in degrees, from 0 to below 180.
    """

    def __init__(self, cosine: Tensor, margin: float) -> None:
        self._m = math.radians(margin)
        self._cosine = cosine.clamp(-1, 1)
        # At a cosine of exactly 1 the sine is 0, where a square root has no gradient: a tiny sine has one.
        least = torch.finfo(cosine.dtype).eps ** 2
        self._sine = ((1 - self._cosine) * (1 + self._cosine)).clamp_min(least).sqrt()
        self._within = self._is_within(self._cosine)
        self.value = torch.where(self._within, self._turned(), self._lowered())

    def slope(self) -> Tensor:
        """D value / d cosine, `sin(theta + m) / sin(theta)`.

        It is unbounded at a cosine of 1. There the sine is taken as that of the nearest cosine below 1.
        """
        least = torch.finfo(self._sine.dtype).eps ** 0.5
        turning = math.cos(self._m) + math.sin(self._m) * self._cosine / self._sine.clamp_min(least)
        return torch.where(self._within, turning, 1.0)

    def change(self, delta: Tensor) -> Tensor:
        """The value at `cosine + delta` less that here, without cancellation.

        cos(theta' + m) - cos(theta + m) = delta cos m - (sin' - sin) sin m
        sin' - sin                       = -delta (2 cos + delta) / (sin' + sin)
        """
        delta = torch.minimum(torch.maximum(delta, -1 - self._cosine), 1 - self._cosine)
        square = delta * (2 * self._cosine + delta)
        sines = self._sine + (self._sine.square() - square).clamp_min(0).sqrt()
        turned = math.cos(self._m) * delta + math.sin(self._m) * (square / sines)
        # Crossing the edge adds its step, taken at the cosine on this side.
        step = self._lowered() - self._turned()
        within = self._is_within(self._cosine + delta)
        here = torch.where(within, turned, delta + step)
        return torch.where(self._within, here, torch.where(within, turned - step, delta))

    def _is_within(self, cosine: Tensor) -> Tensor:
        return cosine.acos() <= math.pi - self._m

    def _turned(self) -> Tensor:
        return math.cos(self._m) * self._cosine - math.sin(self._m) * self._sine

    def _lowered(self) -> Tensor:
        return self._cosine - self._m * math.sin(self._m)
