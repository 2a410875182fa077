"""What is drawn on images: heat over the grid of parts, boxes around parts, and links between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from eif_engine.jobs.explain import Explanation, Link, links

LINK_COLORS = ((213, 94, 0), (0, 114, 178), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233))
"""Told apart by people of any colour vision (Okabe and Ito, 2008), the strongest link first."""

RAISES, LOWERS = (214, 39, 20), (33, 90, 190)
_SMOOTH = 2
_CURVE_STEPS, _BOW, _OVER = 32, 26, 14
_STRONGEST_HEAT = 0.85
_FADED = 0.55
_WEAKEST, _PARTS_APART = 0.1, 6

Array = NDArray[np.float64]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Grid:
    """Where the parts of an image are in a picture: a grid of rows and columns over a tile."""

    left: int
    top: int
    width: int
    height: int
    rows: int
    columns: int

    def box(self, part: int) -> Box:
        """Left, top, right and bottom of a part."""
        row, column = divmod(part, self.columns)
        across, down = self.width / self.columns, self.height / self.rows
        left, top = self.left + column * across, self.top + row * down
        return left, top, left + across, top + down


@cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own, which it unpacks at each call: a picture has a hundred words."""
    return ImageFont.load_default(size)


def heat(tile: Image.Image, values_HW: Array, strongest: float) -> Image.Image:
    """Lay values over an image: red adds to a similarity, blue takes away, and no colour is nothing.

    Args:
        tile: RGB.
        values_HW: Of the parts.
        strongest: The value of full colour.
    """
    grey = np.asarray(tile.convert("L").convert("RGB"), dtype=np.float64)
    faded = 255 - (255 - grey) * _FADED
    scaled = np.clip(values_HW / strongest, -1, 1) if strongest > 0 else np.zeros_like(values_HW)
    level = np.asarray(Image.fromarray(scaled.astype(np.float32)).resize(tile.size, Image.Resampling.BILINEAR))
    strength = np.abs(level)[..., None].astype(np.float64) * _STRONGEST_HEAT
    color = np.where(level[..., None] >= 0, np.array(RAISES, dtype=np.float64), np.array(LOWERS, dtype=np.float64))
    mixed = faded * (1 - strength) + color * strength
    return Image.fromarray(mixed.round().astype(np.uint8))


def shown_links(explanation: Explanation, count: int = len(LINK_COLORS)) -> list[Link]:
    """The strongest links that do not say the same twice: two are shown only if at one end they are apart.

    Apart is another part on a coarse grid, and not its neighbour on a finer one.
    """
    reach = min(explanation.rows, explanation.columns) // _PARTS_APART
    shown: list[Link] = []
    for link in links(explanation):
        if len(shown) == count or link.contribution < max(0.0, _WEAKEST * shown[0].contribution if shown else 1e-9):
            break
        if not any(_same(link, other, explanation.columns, reach) for other in shown):
            shown.append(link)
    return shown


def draw_links(canvas: Image.Image, first: Grid, second: Grid, shown: Sequence[Link]) -> None:
    """Draw numbered boxes around linked parts, and lines between them whose width tells the contribution."""
    top, bottom = first.top - _OVER, first.top + first.height + _OVER
    layer = Image.new("RGBA", (canvas.width * _SMOOTH, (bottom - top) * _SMOOTH))
    draw = ImageDraw.Draw(layer)
    one, other = replace(first, top=first.top - top), replace(second, top=second.top - top)
    most = max((link.contribution for link in shown), default=1.0)
    numbered = list(enumerate(zip(shown, LINK_COLORS, strict=False)))
    for number, (link, color) in reversed(numbered):
        bow = _BOW * (number - (len(shown) - 1) / 2)
        curve = _curve(one.box(link.part), other.box(link.neighbor_part), bow)
        _line(draw, curve, color, round(_SMOOTH * (2 + 10 * link.contribution / most)))
    for number, (link, color) in reversed(numbered):
        for grid, part in ((one, link.part), (other, link.neighbor_part)):
            _boxed(draw, grid.box(part), color, str(number + 1))
    smooth = layer.reduce(_SMOOTH)
    canvas.paste(smooth, (0, top), mask=smooth)


def _same(link: Link, other: Link, columns: int, reach: int) -> bool:
    ends = ((link.part, other.part), (link.neighbor_part, other.neighbor_part))
    return all(_distance(part, known, columns) <= reach for part, known in ends)


def _distance(part: int, other: int, columns: int) -> int:
    (row, column), (other_row, other_column) = divmod(part, columns), divmod(other, columns)
    return max(abs(row - other_row), abs(column - other_column))


def _curve(start: Box, end: Box, bow: float) -> list[tuple[float, float]]:
    """From the right edge of a box to the left edge of another; bowed, lest lines along one row hide each other."""
    (x0, y0), (x1, y1) = (start[2], (start[1] + start[3]) / 2), (end[0], (end[1] + end[3]) / 2)
    steps = [number / _CURVE_STEPS for number in range(_CURVE_STEPS + 1)]
    return [
        (_SMOOTH * (x0 + (x1 - x0) * step), _SMOOTH * (y0 + (y1 - y0) * step + 4 * bow * step * (1 - step)))
        for step in steps
    ]


def _line(
    draw: ImageDraw.ImageDraw, curve: Sequence[tuple[float, float]], color: tuple[int, int, int], width: int
) -> None:
    """With a white edge, so that it is seen on any image."""
    draw.line(curve, fill=(255, 255, 255, 190), width=width + 4 * _SMOOTH, joint="curve")
    draw.line(curve, fill=(*color, 215), width=width, joint="curve")


def _boxed(draw: ImageDraw.ImageDraw, box: Box, color: tuple[int, int, int], number: str) -> None:
    left, top, right, bottom = (_SMOOTH * value for value in box)
    draw.rectangle((left, top, right, bottom), outline=(255, 255, 255, 255), width=5 * _SMOOTH)
    draw.rectangle((left + 2, top + 2, right - 2, bottom - 2), outline=(*color, 255), width=3 * _SMOOTH)
    badge = 11 * _SMOOTH
    middle, level = left + badge / 2, top + badge / 2
    draw.ellipse((middle - badge, level - badge, middle + badge, level + badge), fill=(*color, 255))
    draw.text((middle, level), number, font=font(15 * _SMOOTH), fill=(255, 255, 255, 255), anchor="mm")
