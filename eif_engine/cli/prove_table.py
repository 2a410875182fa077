"""The table that `prove` prints."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from rich.markup import escape
from rich.table import Table

from eif_engine.jobs.counterfactual_report import NONE, CounterfactualReport, Measure

SHOWN = 20
"""Queries that get a row of their own."""


def summary(reports: Sequence[CounterfactualReport]) -> Table:
    """A row a query with the gain in distance of every arm, and their means."""
    arms = [name for name in reports[0].arms if name != NONE]
    table = Table(title="distance, and its gain by arm", title_justify="left")
    table.add_column("query", overflow="fold")
    for name in ("distance", NONE, *arms):
        table.add_column(escape(name), justify="right")
    for report in reports[:SHOWN]:
        gains = [_text(report.arms[name].distance_gain) for name in arms]
        table.add_row(
            escape(report.query_id), f"{report.distance:.4f}", f"{report.arms[NONE].distance.mean:.4f}", *gains
        )
    if len(reports) > SHOWN:
        table.add_row(f"... and {len(reports) - SHOWN} more", *[""] * (2 + len(arms)))
    table.add_section()
    none = fmean(report.arms[NONE].distance.mean for report in reports)
    means = [Measure.of([report.arms[name].distance_gain.mean for report in reports]) for name in arms]
    start = fmean(report.distance for report in reports)
    table.add_row(f"mean of {len(reports)}", f"{start:.4f}", f"{none:.4f}", *map(_text, means))
    apart = [fmean(report.arms[name].distance_gain.mean > 0 for report in reports) for name in arms]
    table.add_row("came apart", "", "", *(f"{share:.0%}" for share in apart))
    recalls = [Measure.of([report.arms[name].recall_gain.mean for report in reports]) for name in arms]
    base = fmean(report.arms[NONE].recall_at_1.mean for report in reports)
    table.add_row("recall@1, gain", f"{reports[0].recall_at_1:.4f}", f"{base:.4f}", *map(_text, recalls))
    return table


def _text(measure: Measure) -> str:
    error = "" if measure.standard_error is None else f" ± {measure.standard_error:.4f}"
    return f"{measure.mean:+.4f}{error}"
