"""The plots of a report: how well detection does, whether acting helps, and how concentrated harm is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from services.influence.worker.report.axes import Axis, bottom_axis, left_axis, percent
from services.influence.worker.report.report_tables import ReportTables, Row
from services.influence.worker.report.svg import Scale, element, figure, marker, polyline

WIDTH, HEIGHT = 560, 330
LEFT, RIGHT, TOP, BOTTOM = 56, 536, 26, 270
CURVE_POINTS = 240


def detection_plot(tables: ReportTables) -> Markup | None:
    """Precision and recall of planted flips by review budget; None where none were planted."""
    rows = sorted(tables.head("canary", tables.count("canary")), key=lambda row: row["budget_share"])
    rows = [row for row in rows if math.isfinite(row["precision"] + row["recall"])]
    if not rows:
        return None
    budgets = [row["budget_share"] for row in rows]
    x = Scale(low=0.0, high=max(budgets) * 1.04, start=LEFT, stop=RIGHT)
    y = Scale(low=0.0, high=1.0, start=BOTTOM, stop=TOP)
    parts = [
        left_axis(Axis(scale=y, name=""), LEFT, right=RIGHT),
        bottom_axis(Axis(scale=x, name="share of the training set reviewed"), BOTTOM, top=TOP),
    ]
    for name, shape in (("precision", "circle"), ("recall", "square")):
        places = [(x(row["budget_share"]), y(row[name]), row) for row in rows]
        parts.append(polyline([each[0] for each in places], [each[1] for each in places], class_=f"curve {name}"))
        for px, py, row in places:
            tip = (
                f"{name} {percent(row[name])} when {row['budget']:,} samples ({percent(row['budget_share'])}) are read"
            )
            parts.append(marker(shape, px, py, tip, class_=f"point {name}"))
    said = "; ".join(_budget(row) for row in rows)
    return figure(WIDTH, HEIGHT, *parts, title="Detection of planted wrong labels by review budget", description=said)


def _budget(row: Row) -> str:
    found = f"precision {percent(row['precision'])}, recall {percent(row['recall'])}"
    return f"{percent(row['budget_share'])} reviewed: {found}"


def harm_curve(positive_N: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Share of samples, the most harmful first, and the share of all positive harm that they do; both from 0 to 1."""
    ordered = np.sort(np.maximum(positive_N, 0))[::-1]
    done = np.concatenate([[0.0], np.cumsum(ordered)])
    total = done[-1] if done[-1] > 0 else 1.0
    return np.linspace(0, 1, len(done)), done / total


def harm_plot(tables: ReportTables) -> Markup | None:
    """How much of the harm the most harmful samples do; None without harm."""
    positive_N = tables.columns("harm", "positive")["positive"].to_numpy()
    if not len(positive_N) or not (positive_N > 0).any():
        return None
    shares, done = harm_curve(positive_N)
    at = np.unique(np.concatenate([[0], np.geomspace(1, len(shares) - 1, CURVE_POINTS).astype(int)]))
    x = Scale(low=0.0, high=1.0, start=LEFT, stop=RIGHT)
    y = Scale(low=0.0, high=1.0, start=BOTTOM, stop=TOP)
    xs, ys = [x(value) for value in shares[at].tolist()], [y(value) for value in done[at].tolist()]
    parts = [
        left_axis(Axis(scale=y, name=""), LEFT, right=RIGHT),
        bottom_axis(Axis(scale=x, name="share of the training samples, the most harmful first"), BOTTOM, top=TOP),
        element("line", x1=x(0), y1=y(0), x2=x(1), y2=y(1), class_="chance"),
        element("polygon", points=_area(xs, ys), class_="area harmful"),
        polyline(xs, ys, class_="curve harmful"),
    ]
    marks = _marks(shares, done)
    for share, part in marks:
        tip = f"the most harmful {percent(share)} do {percent(part)} of the harm"
        parts.append(marker("diamond", x(share), y(part), tip, class_="point harmful"))
        below = min(y(part) + 15, BOTTOM - 8)
        parts.append(element("text", _callout(share, part), x=x(share) + 12, y=below, class_="callout"))
    said = "; ".join(f"the most harmful {percent(share)} do {percent(part)} of it" for share, part in marks)
    return figure(WIDTH, HEIGHT, *parts, title="Concentration of harm", description=said)


def _marks(shares: NDArray[np.float64], done: NDArray[np.float64]) -> Sequence[tuple[float, float]]:
    marks = [(share, float(np.interp(share, shares, done))) for share in (0.01, 0.1, 0.3)]
    return [mark for mark in marks if mark[1] < 0.995]


def _callout(share: float, part: float) -> str:
    return f"{percent(share)} do {100 * part:.0f} %"


def _area(xs: Sequence[float], ys: Sequence[float]) -> str:
    points = [(xs[0], BOTTOM), *zip(xs, ys, strict=True), (xs[-1], BOTTOM)]
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
