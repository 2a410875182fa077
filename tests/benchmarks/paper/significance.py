"""Means over queries with their errors, and whether two arms differ: the same queries, one against the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from tests.benchmarks.paper.proof import Gain


@dataclass(frozen=True)
class Paired:
    """Two-sided p-values of the differences; NaN where there are too few, or none differs."""

    t_test: float
    wilcoxon: float


def paired(gains: Sequence[float], others: Sequence[float]) -> Paired:
    """The paired t-test and Wilcoxon's signed-rank test."""
    difference = np.asarray(gains) - np.asarray(others)
    if len(difference) < 3 or not np.any(difference):
        return Paired(math.nan, math.nan)
    return Paired(float(stats.ttest_rel(gains, others).pvalue), float(stats.wilcoxon(difference, method="auto").pvalue))


def by_query(gains: Sequence[Gain], arm: str) -> dict[tuple[str, str], Gain]:
    """The gains of an arm by model and query."""
    return {(gain.model, gain.query): gain for gain in gains if gain.arm == arm}


def against(gains: Sequence[Gain], arm: str, other: str) -> Paired:
    """Distance gains of an arm against another's, query by query."""
    first, second = by_query(gains, arm), by_query(gains, other)
    keys = sorted(first.keys() & second.keys())
    return paired([first[key].distance_gain for key in keys], [second[key].distance_gain for key in keys])


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error (NaN for a single value)."""
    error = float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
    return float(np.mean(values)), error
