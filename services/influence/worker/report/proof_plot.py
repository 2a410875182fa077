"""What acting on the findings gained, beside as many random changes, with the spread over draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from services.influence.worker.report.axes import Axis, bottom_axis, plain
from services.influence.worker.report.report_tables import ReportTables, Row
from services.influence.worker.report.svg import Scale, element, figure, marker

WIDTH, LEFT, RIGHT, TOP, ROW = 560, 176, 536, 14, 52
NAME_LENGTH = 22
RANDOM, NOTHING = "random", "none"


@dataclass(frozen=True, kw_only=True)
class Gain:
    """What is plotted: a column of the table `proof`, the action that it tells most about, and words for it."""

    column: str
    action: str
    title: str
    axis: str


DISTANCE = Gain(
    column="distance_gain",
    action="reweight",
    title="Confused pairs moved apart",
    axis="distance gained over retraining alone",
)
RECALL = Gain(
    column="recall_gain",
    action="relabel",
    title="Retrieval improved",
    axis="recall@1 gained over retraining alone",
)


def proof_plot(tables: ReportTables, gain: Gain) -> Markup | None:
    """A row a target, a point an arm; None where nothing was proved."""
    rows = [row for row in tables.head("proof", tables.count("proof")) if row["arm"] != NOTHING]
    rows = [row for row in rows if math.isfinite(row[gain.column] + row[f"{gain.column}_error"])]
    rows = [row for row in rows if row["action"] == gain.action] or rows
    targets = list(dict.fromkeys((row["target"], row["action"]) for row in rows))
    if not targets:
        return None
    bottom = TOP + ROW * len(targets)
    scale = _scale(rows, gain)
    zero = scale(0.0)
    parts = [
        bottom_axis(Axis(scale=scale, name=gain.axis, write=plain), bottom, top=TOP),
        element("line", x1=zero, x2=zero, y1=TOP, y2=bottom, class_="zero"),
    ]
    for place, target in enumerate(targets):
        y = TOP + ROW * (place + 0.5)
        parts.append(_name(*target, y))
        parts += [_arm(row, gain, scale, y) for row in rows if (row["target"], row["action"]) == target]
    said = "; ".join(_tip(row, gain) for row in rows)
    return figure(WIDTH, bottom + 56, *parts, title=gain.title, description=said)


def _scale(rows: Sequence[Row], gain: Gain) -> Scale:
    ends = [row[gain.column] + sign * row[f"{gain.column}_error"] for row in rows for sign in (-1, 1)]
    low, high = min(0.0, *ends), max(0.0, *ends)
    room = (high - low) * 0.06 or 0.05
    return Scale(low=low - room, high=high + room, start=LEFT, stop=RIGHT)


def _arm(row: Row, gain: Gain, scale: Scale, y: float) -> Markup:
    acted = row["arm"] != RANDOM
    y += -8 if acted else 8
    kind = "acted" if acted else "random"
    value, error = row[gain.column], row[f"{gain.column}_error"]
    parts = []
    if error > 0:
        x1, x2 = scale(value - error), scale(value + error)
        parts.append(element("line", x1=x1, x2=x2, y1=y, y2=y, class_=f"error {kind}"))
        parts += [element("line", x1=x, x2=x, y1=y - 4, y2=y + 4, class_=f"error {kind}") for x in (x1, x2)]
    parts.append(marker("circle" if acted else "diamond", scale(value), y, _tip(row, gain), class_=f"point {kind}"))
    return Markup("").join(parts)


def _name(target: str, action: str, y: float) -> Markup:
    text = target_name(target)
    short = text if len(text) <= NAME_LENGTH else text[: NAME_LENGTH - 1] + "\N{HORIZONTAL ELLIPSIS}"
    return element(
        "g",
        element("title", text),
        element("text", short, x=LEFT - 14.0, y=y - 2, text_anchor="end", class_="row-name"),
        element("text", action, x=LEFT - 14.0, y=y + 14, text_anchor="end", class_="tick"),
    )


def target_name(target: str) -> str:
    """For people: `all confusions`, or the label."""
    return "all confusions" if target == "all" else target.removeprefix("class:")


def _tip(row: Row, gain: Gain) -> str:
    arm = "as many random changes" if row["arm"] == RANDOM else f"as found ({row['arm']})"
    spread = f" \N{PLUS-MINUS SIGN} {row[f'{gain.column}_error']:.3g}" if row["draws"] > 1 else ""
    changed = f"{row['changed']:,} samples changed"
    return f"{target_name(row['target'])}, {row['action']}, {arm}: {row[gain.column]:+.3g}{spread}, {changed}"
