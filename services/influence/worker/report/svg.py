"""SVG elements, and scales from values to places. Text is escaped; colours come from the style sheet by class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape


def element(name: str, *children: str | Markup, **attributes: float | str) -> Markup:
    """An element; `class_` is `class`, `text_anchor` is `text-anchor`, and children that are plain text are escaped."""
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _value(value)) for key, value in attributes.items()
    )
    inner = Markup("").join(escape(child) for child in children)
    return Markup("<{}{}>{}</{}>").format(Markup(name), written, inner, Markup(name))  # noqa: S704  # our own names


def _value(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Maps values in [low, high] to places between `start` and `stop`, linearly."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.stop - self.start)

    def ticks(self, most: int = 5) -> list[float]:
        """Round values in the range, at most so many and two: 1, 2 or 5 times a power of ten apart."""
        rough = (self.high - self.low) / most
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(place * step, 12) for place in range(first, last + 1)]


def polyline(xs: Sequence[float], ys: Sequence[float], *, class_: str) -> Markup:
    """A line through points."""
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
    return element("polyline", points=points, class_=class_)


def figure(width: int, height: int, *children: Markup, title: str, description: str) -> Markup:
    """A picture that a screen reader reads out."""
    return element(
        "svg",
        element("title", title),
        element("desc", description),
        *children,
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_label=f"{title}. {description}",
        class_="plot",
    )


def marker(shape: str, x: float, y: float, tip: str, *, class_: str) -> Markup:
    """A point: `circle`, `square` or `diamond`, so that colour is not needed; its tip shows on hover."""
    said = element("title", tip)
    if shape == "circle":
        return element("circle", said, cx=x, cy=y, r=5.0, class_=class_)
    if shape == "square":
        return element("rect", said, x=x - 4.5, y=y - 4.5, width=9.0, height=9.0, class_=class_)
    corners = f"{x:.1f},{y - 6:.1f} {x + 6:.1f},{y:.1f} {x:.1f},{y + 6:.1f} {x - 6:.1f},{y:.1f}"
    return element("polygon", said, points=corners, class_=class_)
