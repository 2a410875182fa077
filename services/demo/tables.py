"""What the demo found, as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from services.client.rows import RankedSample
from services.demo.data import DemoData
from services.demo.flow import Explained, Findings
from services.demo.summary import Summary

ROWS = 8
_NUMERIC = {"distance", "influence", "share", "doubt", "figure", "seconds"}


def show(console: Console, data: DemoData, findings: Findings, summary: Summary) -> None:
    """Print every table."""
    for table in _tables(data, findings, summary):
        console.print()
        console.print(table)
    console.print()


def _tables(data: DemoData, findings: Findings, summary: Summary) -> Iterator[Table]:
    yield _confusions(findings)
    if findings.explained:
        yield _explained(findings.explained[0], data.flips)
    yield _harmful(findings, data.flips)
    yield _suggestions(findings, data.flips)
    yield _refusals(findings)
    yield _times(summary)
    yield _figures(summary)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=Text(title), title_justify="left", title_style="bold")
    for name in columns:
        table.add_column(name, justify="right" if name in _NUMERIC else "left", overflow="fold")
    return table


def _row(table: Table, *cells: str | Text) -> None:
    """Add a row; ids and labels are shown as they are, whatever brackets they have."""
    table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in cells))


def _confusions(findings: Findings) -> Table:
    title = f"The closest of {len(findings.confusions)} confusions: test samples nearest to a sample of another class"
    table = _table(title, "test sample", "shows", "nearest other", "shows", "distance")
    for each in findings.explained[:ROWS]:
        pair = each.pair
        _row(table, pair.sample_id, pair.label, pair.neighbor_id, pair.neighbor_label, f"{pair.distance:.4f}")
    return table


def _explained(explained: Explained, flips: dict[str, str]) -> Table:
    pair = explained.pair
    table = _table(
        f"Who taught the model that {pair.sample_id} ({pair.label}) is like {pair.neighbor_id} ({pair.neighbor_label})",
        "effect",
        "training sample",
        "label",
        "truth",
        "influence",
    )
    for effect, style, samples in (("harmful", "red", explained.harmful), ("helpful", "green", explained.helpful)):
        for sample in samples[: ROWS // 2]:
            _row(table, Text(effect, style=style), *_ranked(sample, flips))
    return table


def _harmful(findings: Findings, flips: dict[str, str]) -> Table:
    title = f"The most harmful training samples over all {len(findings.confusions)} confusions"
    table = _table(title, "training sample", "label", "truth", "influence", "neighbours say")
    votes = {row.sample_id: row.suggested_label for row in findings.harmful_checked}
    for sample in findings.ranking[:ROWS]:
        _row(table, *_ranked(sample, flips), votes.get(sample.sample_id, "the same"))
    return table


def _ranked(sample: RankedSample, flips: dict[str, str]) -> tuple[str, str, Text, str]:
    return sample.sample_id, sample.label, _truth(sample.sample_id, flips), f"{sample.score:+.3e}"


def _suggestions(findings: Findings, flips: dict[str, str]) -> Table:
    table = _table(
        "The labels that their neighbours doubt most",
        "training sample",
        "label",
        "should be",
        "share",
        "doubt",
        "truth",
    )
    for row in findings.suggestions[:ROWS]:
        shares = f"{row.suggested_probability:.2f}", f"{row.score:.2f}"
        _row(table, row.sample_id, row.label, row.suggested_label, *shares, _truth(row.sample_id, flips))
    return table


def _truth(sample_id: str, flips: dict[str, str]) -> Text:
    if sample_id not in flips:
        return Text("right", style="dim")
    return Text(f"flip of {flips[sample_id]}", style="yellow")


def _refusals(findings: Findings) -> Table:
    table = _table("What must be refused is, with a reason", "attempt", "reason", "message")
    for each in findings.refusals:
        _row(table, each.attempt, Text(each.reason, style="red"), each.message)
    return table


def _times(summary: Summary) -> Table:
    seconds = summary.seconds
    table = _table("Where the time went", "what", "seconds")
    for what, value in (
        ("train the model", seconds.train),
        ("export it to ONNX", seconds.export),
        ("start the store and the services", seconds.start),
        ("upload", seconds.upload),
        ("rank job", seconds.rank),
        ("  of it features", seconds.features),
        ("  of it confusions and influence", seconds.influence),
        ("index and relabel jobs", seconds.relabel),
        ("audit job, report and verdict", seconds.audit),
        ("in all", seconds.total),
    ):
        _row(table, what, f"{value:.1f}")
    return table


def _figures(summary: Summary) -> Table:
    planted = summary.flips_planted
    table = _table(f"In all, on {summary.device}, store {summary.store}", "what", "figure")
    for what, figure in (
        ("training samples, test samples of other classes", f"{summary.train_samples:,}, {summary.test_samples:,}"),
        ("recall@1 of the model on the test samples", f"{summary.recall_at_1:.3f}"),
        ("confusion pairs explained", f"{summary.confusion_pairs}"),
        ("wrong labels planted, which is also the review budget", f"{planted}"),
        ("of them found within the budget by doubt in the label", f"{summary.flips_found_at_budget} of {planted}"),
        ("of them found within the budget by influence alone", f"{summary.influence_found_at_budget} of {planted}"),
        ("of them given their true label by the relabel job", f"{summary.relabel_hit_rate:.1%}"),
        ("of them among the labels that the audit flags", f"{summary.audit_flips_found} of {summary.audit_flagged}"),
        ("of them flagged by the audit, and given their true label", f"{summary.audit_hit_rate:.1%}"),
        ("the gate says", summary.gate),
    ):
        _row(table, what, figure)
    return table
