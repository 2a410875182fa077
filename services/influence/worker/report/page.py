"""The page itself: rendered whole, written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from services.influence.worker.report.assets import content_policy, program, style
from services.influence.worker.report.key_figures import key_cards, other_cards
from services.influence.worker.report.limits import MAX_FILE_BYTES
from services.influence.worker.report.next_steps import next_steps
from services.influence.worker.report.payload import Payload, make_payload
from services.influence.worker.report.pictures import pictures_json
from services.influence.worker.report.plots import detection_plot, harm_plot
from services.influence.worker.report.proof_plot import DISTANCE, RECALL, proof_plot
from services.influence.worker.report.report_tables import ReportTables
from services.influence.worker.report.source import ReportSource


def write_report(path: Path, source: ReportSource) -> None:
    """Write the report of an audit; under 15 MB, and the same for the same source.

    Args:
        path: The HTML file.
        source: What it shows.
    """
    payload = make_payload(source)
    page = _render(source, payload)
    room = MAX_FILE_BYTES - len(page.encode("utf-8", "replace"))
    pictures = pictures_json(source, payload, room=room)
    head, _, tail = page.rpartition(_PICTURES_PLACE)  # the last one: labels before it may say anything
    partial = path.with_name(f".{path.name}.part")
    with partial.open("w", encoding="utf-8", errors="replace", newline="\n") as file:
        file.writelines((head, pictures, tail))
    partial.replace(path)


_PICTURES_PLACE = "@@pictures@@"


def _render(source: ReportSource, payload: Payload) -> str:
    return _environment().get_template("page.html.j2").render(**_context(source, payload))


def _context(source: ReportSource, payload: Payload) -> dict[str, Any]:
    tables = ReportTables(source.tables)
    previous = {} if source.difference is None else source.difference.figures
    return {
        "source": source,
        "title": source.display_name or source.job.rsplit("/", 1)[-1],
        "sections": payload.sections,
        "flagged": int(source.figures.get("label_issues", 0)),
        "cards": key_cards(source.figures, previous),
        "figures": other_cards(source.figures, previous),
        "steps": next_steps(source.figures),
        "changes": _change_counts(source),
        "detection": detection_plot(tables),
        "harm_plot": harm_plot(tables),
        "proofs": [plot for gain in (DISTANCE, RECALL) if (plot := proof_plot(tables, gain))],
        "policy": content_policy(),
        "style": Markup(style()),  # noqa: S704  # a package file
        "program": Markup(program()),  # noqa: S704  # package files
        "data": Markup(payload.text),  # noqa: S704  # escaped by script_json
        "pictures": _PICTURES_PLACE,
    }


def _change_counts(source: ReportSource) -> dict[str, int]:
    changes = [] if source.difference is None else [each.change for each in source.difference.changes]
    return {name: changes.count(name) for name in ("new", "fixed", "persisting")}


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("services.influence.worker.report", "."),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["count"] = lambda value: f"{value:,}"
    return environment
