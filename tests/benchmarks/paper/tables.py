"""Tables in Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from tests.benchmarks.paper.detectors import Detected
from tests.benchmarks.paper.flips import Noise
from tests.benchmarks.paper.network import LossName
from tests.benchmarks.paper.proof import Gain
from tests.benchmarks.paper.rankings import IF, METHODS, RANDOM
from tests.benchmarks.paper.runtime import Timed
from tests.benchmarks.paper.significance import against, mean_and_error

LOSSES = {LossName.PROXY_NCA: "ProxyNCA++", LossName.SOFT_TRIPLE: "SoftTriple"}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; a bar within a cell, as in |W|, is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def proof_table(gains: Sequence[Gain]) -> str:
    """Table 1 for one way of retraining and one kind of query: a row an arm."""
    budgets = list(dict.fromkeys(gain.budget for gain in gains))
    head = ["arm"]
    for budget in budgets:
        head += [f"{name}, {budget}" for name in LOSSES.values()]
    head += [f"apart, {budgets[0]}", f"r@1, {budgets[0]}", "p against IF: t, Wilcoxon", "p against random: t, Wilcoxon"]
    rows = []
    for arm in (*METHODS, RANDOM):
        mine = [gain for gain in gains if gain.arm == arm]
        if not mine:
            continue
        row = [arm]
        for budget in budgets:
            for loss in LOSSES:
                values = [gain.distance_gain for gain in mine if gain.budget == budget and gain.model.startswith(loss)]
                row.append(_pm(values))
        first = [gain for gain in gains if gain.budget == budgets[0]]
        chosen = [gain for gain in first if gain.arm == arm]
        row.append(f"{np.mean([gain.distance_gain > 0 for gain in chosen]):.0%}")
        row.append(f"{np.mean([gain.recall_gain for gain in chosen]):+.4f}")
        row += [_p_values(first, arm, other) for other in (IF, RANDOM)]
        rows.append(row)
    return table(head, rows)


def relabel_table(detected: Sequence[Detected], detectors: Sequence[str], shares: Sequence[float]) -> str:
    """Table 2: share of the flipped samples that get their true label back, mean over losses and seeds."""
    head = ["rule", *(f"{noise}, {100 * share:g} %" for noise in Noise for share in shares)]
    rows = []
    for detector in detectors:
        row = [detector]
        for noise in Noise:
            for share in shares:
                chosen = [each for each in of(detected, noise, share) if each.detector == detector]
                hits = [each.hit for each in chosen if each.hit is not None]
                row.append(_plain_pm(hits))
        rows.append(row)
    return table(head, rows)


def detector_table(detected: Sequence[Detected], share: float) -> str:
    """Every detector on the models with the most flips, by kind of flips."""
    head = ["detector"]
    for noise in Noise:
        head += [f"{noise}: AP", "AUROC", "precision", "relabel hit", "kept"]
    head.append("seconds")
    rows = []
    for detector in dict.fromkeys(each.detector for each in detected):
        row, seconds = [detector], []
        for noise in Noise:
            chosen = [each for each in of(detected, noise, share) if each.detector == detector]
            for name in ("average_precision", "auroc", "precision", "hit", "kept"):
                values = [getattr(each, name) for each in chosen if getattr(each, name) is not None]
                row.append(f"{np.mean(values):.3f}" if values else "-")
            seconds += [each.seconds for each in chosen]
        rows.append([*row, f"{np.median(seconds):.2f}"])
    return table(head, rows)


def runtime_table(timed: Sequence[Timed]) -> str:
    """Table 3; how many times faster than the published procedure on cached features."""
    base = timed[1].per_pair
    rows = [
        [
            each.name,
            str(each.pairs),
            f"{each.seconds:.3g}",
            f"{1e3 * each.per_pair:.3g}",
            f"{base / each.per_pair:,.3g}",
        ]
        for each in timed
    ]
    return table(["procedure", "pairs", "seconds", "ms a pair", "times the speed of the second row"], rows)


def of(detected: Sequence[Detected], noise: Noise, share: float) -> list[Detected]:
    """Those on models with this kind and share of flips."""
    return [each for each in detected if f"-{noise}{100 * share:g}-" in each.model]


def _p_values(gains: Sequence[Gain], arm: str, other: str) -> str:
    found = against(gains, arm, other)
    return "-" if math.isnan(found.t_test) else f"{found.t_test:.1g}, {found.wilcoxon:.1g}"


def _pm(values: Sequence[float]) -> str:
    if not values:
        return "-"
    mean, error = mean_and_error(values)
    return f"{mean:+.4f}" if math.isnan(error) else f"{mean:+.4f} ± {error:.4f}"


def _plain_pm(values: Sequence[float]) -> str:
    if not values:
        return "-"
    mean, error = mean_and_error(values)
    return f"{mean:.2f}" if math.isnan(error) else f"{mean:.2f} ± {error:.2f}"
