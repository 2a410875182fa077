"""An audit held against the planted truth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

Figures = dict[str, float]


def detection(issues: pa.Table, canary: pa.Table, truth: Mapping[str, str]) -> Figures:
    """How well wrong labels were found and corrected, and how well the canaries foretold that.

    Args:
        issues: The table of label issues.
        canary: The table of precision and recall by review budget.
        truth: The true label of every flipped training sample, by id.
    """
    rows = issues.to_pylist()
    flagged = [row for row in rows if row["flagged"]]
    wrong = [row for row in flagged if row["sample_id"] in truth]
    right = [row for row in wrong if row["suggested_label"] == truth[row["sample_id"]]]
    figures: Figures = {
        "flips": len(truth),
        "flagged": len(flagged),
        "flagged_precision": len(wrong) / max(1, len(flagged)),
        "flagged_recall": len(wrong) / max(1, len(truth)),
        "suggested_right": len(right) / max(1, len(wrong)),
    }
    gaps = []
    for budget in canary.to_pylist():
        head = rows[: budget["budget"]]
        precision = sum(row["sample_id"] in truth for row in head) / max(1, len(head))
        share = f"{100 * budget['budget_share']:g}_percent"
        figures[f"precision_at_{share}"] = precision
        figures[f"canary_precision_at_{share}"] = budget["precision"]
        gaps.append(abs(precision - budget["precision"]))
    return figures | {"largest_canary_gap": max(gaps, default=0.0)}


def by_advice(advice: pa.Table, issues: pa.Table, truth: Mapping[str, str]) -> list[dict[str, Any]]:
    """By kind of advice: its classes, labels flagged there, how many are wrong, how many suggestions right."""
    kind_of: dict[str, str] = {row["label"]: row["advice"] for row in advice.to_pylist()}
    found: dict[str, dict[str, Any]] = {}
    for kind in kind_of.values():
        row = found.setdefault(kind, {"advice": kind, "classes": 0, "flagged": 0, "wrong": 0, "right": 0})
        row["classes"] += 1
    for issue in issues.to_pylist():
        if issue["flagged"]:
            row, true = found[kind_of[issue["label"]]], truth.get(issue["sample_id"])
            row["flagged"] += 1
            row["wrong"] += true is not None
            row["right"] += true == issue["suggested_label"]
    return sorted(found.values(), key=lambda row: -row["flagged"])
