from __future__ import annotations

import math
import re
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from markupsafe import Markup

from services.influence.worker.report.plots import detection_plot, harm_curve, harm_plot
from services.influence.worker.report.proof_plot import DISTANCE, RECALL, proof_plot
from services.influence.worker.report.report_tables import ReportTables
from services.influence.worker.report.svg import Scale, element
from tests.report_full import HOSTILE, full_tables
from tests.report_sources import harm_table, make_table

TABLES = ReportTables(full_tables([f"id{place}" for place in range(7)], [f"label{place}" for place in range(7)]))


def parsed(plot: Markup | None) -> ET.Element:
    assert plot is not None
    return ET.fromstring(str(plot))  # noqa: S314  # made here


def points(plot: Markup | None, class_: str) -> list[ET.Element]:
    return [each for each in parsed(plot).iter() if each.get("class") == f"point {class_}"]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-0.01, 0.024, [-0.01, 0, 0.01, 0.02]),
        (0, 0.208, [0, 0.05, 0.1, 0.15, 0.2]),
        (3, 1e6, [2e5, 4e5, 6e5, 8e5, 1e6]),
        (-3e-9, 2e-9, [-3e-9, -2e-9, -1e-9, 0, 1e-9, 2e-9]),
    ],
)
def test_ticks_are_round_and_inside(low: float, high: float, ticks: list[float]) -> None:
    assert Scale(low=low, high=high, start=0, stop=100).ticks() == pytest.approx(ticks, rel=1e-9, abs=1e-12)


def test_a_scale_maps_its_ends() -> None:
    scale = Scale(low=-1, high=3, start=200, stop=100)
    assert (scale(-1), scale(3), scale(1)) == (200, 100, 150)


def test_text_and_attributes_are_escaped() -> None:
    written = element("text", "<b>&", x=1.5, class_='a"b')
    assert str(written) == '<text x="1.5" class="a&#34;b">&lt;b&gt;&amp;</text>'


def test_detection_has_a_point_a_budget_at_its_place() -> None:
    plot = detection_plot(TABLES)
    precision = points(plot, "precision")
    assert len(precision) == len(points(plot, "recall")) == 2
    tips = [str(each[0].text) for each in precision]
    assert tips == [
        "precision 90 % when 1 samples (10 %) are read",
        "precision 80 % when 1 samples (20 %) are read",
    ]
    heights = [float(str(each.get("cy"))) for each in precision]
    assert heights == pytest.approx([50.4, 74.8])  # 26 is 100 %, 270 is 0 %


def test_harm_is_the_share_done_by_the_most_harmful() -> None:
    shares, done = harm_curve(np.array([0.0, 3.0, -5.0, 1.0]))
    assert shares.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert done.tolist() == [0, 0.75, 1, 1, 1]


def test_harm_of_many_samples_stays_a_small_picture() -> None:
    plot = harm_plot(ReportTables({"harm": harm_table(100_000)}))
    assert plot is not None
    assert len(plot) < 12_000
    callouts = [str(each.text) for each in parsed(plot).iter() if each.get("class") == "callout"]
    exact = [_share_of_top(100_000, share) for share in (0.01, 0.1, 0.3)]
    assert [int(text.split("do ")[1].split()[0]) for text in callouts] == [round(100 * each) for each in exact]


def _share_of_top(samples: int, share: float) -> float:
    positive = [max(0.0, 5 - 6 * place / (samples - 1)) for place in range(samples)]
    return math.fsum(positive[: round(share * samples)]) / math.fsum(positive)


def test_what_was_done_stands_beside_what_chance_does() -> None:
    acted, chance = points(proof_plot(TABLES, DISTANCE), "acted"), points(proof_plot(TABLES, DISTANCE), "random")
    assert "label0, reweight, as found (eif): +0.1" in str(acted[0][0].text)
    assert float(str(acted[0].get("cx"))) == pytest.approx(176 + 360 * 0.106 / 0.112, abs=0.1)
    assert "as many random changes: +0.02" in str(chance[0][0].text)


def test_whiskers_span_a_standard_error_on_each_side() -> None:
    lines = [each for each in parsed(proof_plot(TABLES, RECALL)).iter() if each.get("class") == "error random"]
    assert len(lines) == 3  # the span and its two ends; what was acted on has one draw and none
    span = float(str(lines[0].get("x2"))) - float(str(lines[0].get("x1")))
    whole = 360 / (0.03 * 1.12)  # the axis goes from -0.01 to 0.02 with room on both sides
    assert span == pytest.approx(0.02 * whole, rel=1e-3)


def test_empty_tables_have_no_plot() -> None:
    nothing = ReportTables({})
    assert detection_plot(nothing) is harm_plot(nothing) is proof_plot(nothing, DISTANCE) is None
    canary = make_table("canary", [{"budget_share": 0.1, "budget": 1, "precision": float("nan"), "recall": 0.5}])
    assert detection_plot(ReportTables({"canary": canary})) is None
    harmless = make_table("harm", [{**row, "positive": 0.0} for row in harm_table(3).to_pylist()])
    assert harm_plot(ReportTables({"harm": harmless})) is None


def test_hostile_names_stay_text() -> None:
    tables = ReportTables(full_tables(HOSTILE, ["</text><script>x</script>", *HOSTILE[1:]]))
    plot = proof_plot(tables, DISTANCE)
    assert plot is not None
    assert "<script" not in plot
    assert re.search(r"&lt;/text&gt;&lt;script&gt;", plot)


def test_every_plot_says_what_it_shows() -> None:
    for plot in (detection_plot(TABLES), harm_plot(TABLES), proof_plot(TABLES, DISTANCE), proof_plot(TABLES, RECALL)):
        root = parsed(plot)
        assert root.get("role") == "img"
        assert len(str(root.get("aria-label"))) > 40
