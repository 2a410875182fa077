"""The frame of a plot: grid, ticks and names of the axes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from markupsafe import Markup

from services.influence.worker.report.svg import Scale, element


def percent(value: float) -> str:
    """For people: `5 %`."""
    return f"{100 * value:.3g} %"


def plain(value: float) -> str:
    """For people: `0.05`."""
    return "0" if value == 0 else f"{value:.3g}"


@dataclass(frozen=True, kw_only=True)
class Axis:
    """An axis.

    Attributes:
        scale: From values to places.
        name: What it shows.
        write: A tick for people.
    """

    scale: Scale
    name: str
    write: Callable[[float], str] = percent


def bottom_axis(axis: Axis, y: float, *, top: float) -> Markup:
    """Ticks and a name under the plot, grid lines up to `top`."""
    scale = axis.scale
    parts = [element("line", x1=scale.start, x2=scale.stop, y1=y, y2=y, class_="axis")]
    for tick in scale.ticks():
        x = scale(tick)
        parts.append(element("line", x1=x, x2=x, y1=y, y2=top, class_="grid"))
        parts.append(element("text", axis.write(tick), x=x, y=y + 20, text_anchor="middle", class_="tick"))
    middle = (scale.start + scale.stop) / 2
    parts.append(element("text", axis.name, x=middle, y=y + 42, text_anchor="middle", class_="axis-name"))
    return Markup("").join(parts)


def left_axis(axis: Axis, x: float, *, right: float) -> Markup:
    """Ticks left of the plot, grid lines to `right`, and the name above."""
    scale = axis.scale
    parts = []
    for tick in scale.ticks():
        y = scale(tick)
        parts.append(element("line", x1=x, x2=right, y1=y, y2=y, class_="grid"))
        parts.append(element("text", axis.write(tick), x=x - 8, y=y + 4, text_anchor="end", class_="tick"))
    if axis.name:
        parts.append(element("text", axis.name, x=4.0, y=14.0, class_="axis-name"))
    return Markup("").join(parts)
