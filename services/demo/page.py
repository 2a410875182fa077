"""What the demo found, as one HTML file with its images in it."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

from services.demo.data import DemoData, DemoImage
from services.demo.flow import Findings
from services.demo.summary import Seconds, Summary

SUGGESTIONS = 40
VOTERS = 8
CONFUSED_CLASSES = 8
CURVE_WIDTH, CURVE_HEIGHT = 520, 300
CURVE_POINTS = 400


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A row of a bar chart; `share` is of the longest bar, in percent."""

    name: str
    value: str
    share: float


def write_page(path: Path, data: DemoData, findings: Findings, summary: Summary) -> None:
    """Write the page whole or not at all."""
    images = {image.sample_id: image for image in (*data.train, *data.test)}
    text = (
        _environment()
        .get_template("page.html.j2")
        .render(
            data=data,
            findings=findings,
            summary=summary,
            flips=data.flips,
            suggestions=findings.suggestions[:SUGGESTIONS],
            voters=VOTERS,
            confused=confused_classes(findings),
            times=time_bars(summary.seconds),
            curves=_curves(data, findings),
            width=CURVE_WIDTH,
            height=CURVE_HEIGHT,
            picture=lambda sample_id: data_uri(images[sample_id]),
        )
    )
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def data_uri(image: DemoImage) -> str:
    """The image as a URI that needs no network."""
    return f"data:image/png;base64,{base64.b64encode(image.png).decode()}"


def detection_curve(order: Sequence[str], flips: dict[str, str]) -> list[tuple[float, float]]:
    """Share of the flips found (y) among the first share of the samples reviewed (x), both in [0, 1]."""
    points, found = [(0.0, 0.0)], 0
    for reviewed, sample_id in enumerate(order, start=1):
        found += sample_id in flips
        points.append((reviewed / len(order), found / max(1, len(flips))))
    return points


def confused_classes(findings: Findings) -> list[Bar]:
    """The pairs of classes that are confused most often, whichever of the two was asked for."""
    counts = Counter(tuple(sorted((pair.label, pair.neighbor_label))) for pair in findings.confusions)
    most = sorted(counts.items(), key=lambda each: (-each[1], each[0]))[:CONFUSED_CLASSES]
    longest = max((count for _, count in most), default=1)
    return [Bar(name=" and ".join(pair), value=str(count), share=100 * count / longest) for pair, count in most]


def time_bars(seconds: Seconds) -> list[Bar]:
    """Where the time went, in order of the run."""
    parts = {
        "train": seconds.train,
        "export": seconds.export,
        "start": seconds.start,
        "upload": seconds.upload,
        "rank": seconds.rank,
        "index, relabel": seconds.relabel,
    }
    longest = max(*parts.values(), 1e-9)
    return [Bar(name=name, value=f"{value:.1f} s", share=100 * value / longest) for name, value in parts.items()]


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("services.demo", "."),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = breakable
    return environment


def breakable(text: str) -> Markup:
    """Text that may break after `/`, `_` and `-`, which ids and labels are full of."""
    safe = str(escape(text))
    for mark in "/_-":
        safe = safe.replace(mark, f"{mark}\N{ZERO WIDTH SPACE}")
    return Markup(safe)  # noqa: S704  # escaped above


def _curves(data: DemoData, findings: Findings) -> list[tuple[str, str, str]]:
    """Name, css class and SVG points of each curve."""
    orders = (
        ("influence on all confusions", "influence", [row.sample_id for row in findings.ranking]),
        ("doubt in the label", "doubt", [row.sample_id for row in findings.suggestions]),
    )
    return [(name, css, _points(detection_curve(order, data.flips))) for name, css, order in orders]


def _points(curve: list[tuple[float, float]]) -> str:
    step = max(1, len(curve) // CURVE_POINTS)
    kept = [*curve[::step], curve[-1]]
    return " ".join(f"{x * CURVE_WIDTH:.1f},{(1 - y) * CURVE_HEIGHT:.1f}" for x, y in kept)
