"""What the demo found, as one HTML file with its images in it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from services.demo.data import DemoData, DemoImage
from services.demo.flow import Findings
from services.demo.summary import Summary

SUGGESTIONS = 40
VOTERS = 8
CURVE_WIDTH, CURVE_HEIGHT = 560, 220


def write_page(path: Path, data: DemoData, findings: Findings, summary: Summary) -> None:
    """Write the page whole or not at all."""
    environment = Environment(
        loader=PackageLoader("services.demo", "."),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    images = {image.sample_id: image for image in (*data.train, *data.test)}
    text = environment.get_template("page.html.j2").render(
        data=data,
        findings=findings,
        summary=summary,
        flips=data.flips,
        suggestions=findings.suggestions[:SUGGESTIONS],
        voters=VOTERS,
        curves=_curves(data, findings),
        curve_size=(CURVE_WIDTH, CURVE_HEIGHT),
        picture=lambda sample_id: data_uri(images[sample_id]),
    )
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(text)
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


def _curves(data: DemoData, findings: Findings) -> list[tuple[str, str, str]]:
    """Name, css class and SVG points of each curve."""
    orders = (
        ("label doubt", "doubt", [row.sample_id for row in findings.suggestions]),
        ("influence over all confusions", "influence", [row.sample_id for row in findings.ranking]),
    )
    return [(name, css, _points(detection_curve(order, data.flips))) for name, css, order in orders]


def _points(curve: list[tuple[float, float]]) -> str:
    step = max(1, len(curve) // 300)
    kept = [*curve[::step], curve[-1]]
    return " ".join(f"{x * CURVE_WIDTH:.1f},{(1 - y) * CURVE_HEIGHT:.1f}" for x, y in kept)
