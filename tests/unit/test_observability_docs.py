"""Dashboard, alerts and manual are well-formed and point to what there is; names are compared with a real scrape in
tests/integration/test_dashboard.py."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from tests.conftest import REPO

MANUAL = (REPO / "docs" / "operations.md").read_text()


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((REPO / "deploy" / "grafana" / "eif.json").read_text())
    return found


def rules() -> list[dict[str, Any]]:
    document = yaml.safe_load((REPO / "deploy" / "prometheus" / "rules.yaml").read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def test_panels_have_ids_places_and_words_of_their_own() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["title"]
        assert panel["type"] == "row" or (panel["description"] and panel["targets"]), panel["title"]


def test_the_dashboard_asks_for_its_data_source() -> None:
    found = dashboard()
    variables = {variable["name"] for variable in found["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z_]+)", json.dumps(found))) - {"__rate_interval", "__interval", "__all"}
    assert used == variables == {"datasource", "instance"}


def test_alerts_say_how_urgent_they_are_and_where_to_read() -> None:
    anchors = {_anchor(title) for title in re.findall(r"^#+ (.+)$", MANUAL, re.MULTILINE)}
    for rule in rules():
        assert rule["labels"]["severity"] in {"page", "ticket"}, rule["alert"]
        document, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert document == "docs/operations.md"
        assert anchor in anchors, rule["alert"]
        assert rule["annotations"]["summary"].endswith(".")


def test_links_within_the_manual_lead_somewhere() -> None:
    anchors = {_anchor(title) for title in re.findall(r"^#+ (.+)$", MANUAL, re.MULTILINE)}
    assert set(re.findall(r"\]\(#([^)]+)\)", MANUAL)) <= anchors


def _anchor(title: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")
