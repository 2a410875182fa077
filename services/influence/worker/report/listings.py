"""The plainer tables: classes and their pairs, outliers, roll-ups, quality, and harm by sample."""

from __future__ import annotations

from services.influence.worker.report.limits import RowLimits
from services.influence.worker.report.report_tables import ReportTables
from services.influence.worker.report.sample_book import SampleBook
from services.influence.worker.report.section import Section, number

_SCOPE_ORDER = {"all": 0, "class": 2}


def class_pairs(tables: ReportTables, book: SampleBook, limits: RowLimits) -> Section:
    """Pairs of classes that are confused."""
    rows = [
        [book.label(row["label"]), book.label(row["neighbor_label"]), row["confusions"], number(row["mean_distance"])]
        for row in tables.head("class_pairs", limits.listing)
    ]
    return Section(rows=rows, total=tables.count("class_pairs"))


def harm(tables: ReportTables, book: SampleBook, limits: RowLimits) -> Section:
    """Training samples by harm over all confusions: both ends."""
    total = tables.count("harm")
    found = [*tables.head("harm", limits.harm), *tables.tail("harm", min(limits.help, max(0, total - limits.harm)))]
    rows = [
        [
            book.sample("train", row["sample_id"], row["label"]),
            row["rank"],
            row["rank_low"],
            row["rank_high"],
            number(row["signed"], 4),
            number(row["positive"], 4),
        ]
        for row in found
    ]
    return Section(rows=rows, total=total, pictures=[[row[0]] for row in rows])


def advice(tables: ReportTables, book: SampleBook, limits: RowLimits) -> Section:
    """What to do about each class."""
    rows = [
        [
            book.label(row["label"]),
            row["samples"],
            row["advice"],
            number(row["recommended_elsewhere"]),
            book.label(row["top_target"]),
            number(row["top_share"]),
            number(row["target_entropy"]),
            book.label(row["same_as"]),
            number(row["same_as_overlap"]),
            row["action"],
        ]
        for row in tables.head("advice", limits.listing)
    ]
    return Section(rows=rows, total=tables.count("advice"))


def outliers(tables: ReportTables, book: SampleBook, limits: RowLimits) -> Section:
    """Samples far from everything."""
    rows = [
        [book.sample(row["split"], row["sample_id"], row["label"]), row["rank"], number(row["score"], 4), row["split"]]
        for row in tables.head("outliers", limits.listing)
    ]
    return Section(rows=rows, total=tables.count("outliers"), pictures=[[row[0]] for row in rows])


def rollups(tables: ReportTables, limits: RowLimits) -> Section:
    """Findings by the values of columns of the manifest."""
    rows = [
        [
            row["column"],
            row["value"],
            row["samples"],
            row["flagged"],
            number(row["flagged_share"]),
            number(row["harm_share"]),
            number(row["harm_lift"], 4),
        ]
        for row in tables.head("rollups", limits.listing)
    ]
    return Section(rows=rows, total=tables.count("rollups"))


def quality(tables: ReportTables, limits: RowLimits) -> tuple[Section, list[str]]:
    """Retrieval quality, a row a group of test samples, and the names of the metrics that follow its three columns."""
    metrics: dict[str, None] = {}
    groups: dict[tuple[str, str], dict[str, float]] = {}
    samples: dict[tuple[str, str], int] = {}
    for row in tables.head("quality", tables.count("quality")):
        key = (row["scope"], row["value"])
        metrics.setdefault(row["metric"])
        groups.setdefault(key, {})[row["metric"]] = row["score"]
        samples[key] = row["samples"]
    order = sorted(groups, key=lambda key: (_SCOPE_ORDER.get(key[0], 1), key[0], min(groups[key].values()), key[1]))
    rows = [
        [scope.removeprefix("column:"), value, samples[scope, value]]
        + [number(groups[scope, value].get(metric)) for metric in metrics]
        for scope, value in order[: limits.listing]
    ]
    return Section(rows=rows, total=len(order)), list(metrics)
