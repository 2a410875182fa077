"""What the demo found, as tables for a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from services.demo.data import DemoData
from services.demo.flow import Explained, Findings
from services.demo.summary import Summary

ROWS = 8


def show(console: Console, data: DemoData, findings: Findings, summary: Summary) -> None:
    """Print every table."""
    console.print(_confusions(findings))
    if findings.explained:
        console.print(_explained(findings.explained[0], data.flips))
    console.print(_suggestions(findings, data.flips))
    console.print(_figures(summary))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for name in columns:
        numeric = name in {"distance", "influence", "share", "doubt", "figure"}
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    return table


def _confusions(findings: Findings) -> Table:
    found = findings.confusions
    table = _table(
        f"Confusions: {len(found)}; the closest", "test sample", "shows", "nearest other", "shows", "distance"
    )
    for each in findings.explained[:ROWS]:
        pair = each.pair
        table.add_row(pair.sample_id, pair.label, pair.neighbor_id, pair.neighbor_label, f"{pair.distance:.4f}")
    return table


def _explained(explained: Explained, flips: dict[str, str]) -> Table:
    pair = explained.pair
    title = (
        f"Who taught the model that {pair.sample_id} ({pair.label}) is like {pair.neighbor_id} ({pair.neighbor_label})"
    )
    table = _table(title, "effect", "training sample", "label", "truth", "influence")
    for effect, style, samples in (("harmful", "red", explained.harmful), ("helpful", "green", explained.helpful)):
        for sample in samples[: ROWS // 2]:
            truth = _truth(sample.sample_id, flips)
            table.add_row(Text(effect, style=style), sample.sample_id, sample.label, truth, f"{sample.score:+.3e}")
    return table


def _suggestions(findings: Findings, flips: dict[str, str]) -> Table:
    table = _table(
        "Labels that look wrong; the most doubtful", "training sample", "label", "should be", "share", "doubt", "truth"
    )
    for row in findings.suggestions[:ROWS]:
        table.add_row(
            row.sample_id,
            row.label,
            row.suggested_label,
            f"{row.suggested_probability:.2f}",
            f"{row.score:.2f}",
            _truth(row.sample_id, flips),
        )
    return table


def _truth(sample_id: str, flips: dict[str, str]) -> Text:
    if sample_id not in flips:
        return Text("label is right", style="dim")
    return Text(f"planted flip, is {flips[sample_id]}", style="yellow")


def _figures(summary: Summary) -> Table:
    planted = summary.flips_planted
    table = _table("In all", "what", "figure")
    for name, figure in (
        ("training samples, test samples", f"{summary.train_samples}, {summary.test_samples}"),
        ("recall@1 of the model on unseen classes", f"{summary.recall_at_1:.3f}"),
        ("confusion pairs explained", f"{summary.confusion_pairs}"),
        ("wrong labels planted (the review budget)", f"{planted}"),
        ("found within the budget by label doubt", f"{summary.flips_found_at_budget} of {planted}"),
        ("found within the budget by influence alone", f"{summary.influence_found_at_budget} of {planted}"),
        ("planted flips whose suggested label is right", f"{summary.relabel_hit_rate:.1%}"),
        *((f"seconds: {stage}", f"{value:.1f}") for stage, value in summary.seconds.model_dump().items()),
        ("device, store", f"{summary.device}, {summary.store}"),
    ):
        table.add_row(name, figure)
    return table
