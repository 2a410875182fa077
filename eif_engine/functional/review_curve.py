"""How well review by issue score does, told by planted flips: precision and recall at a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class ReviewPoint:
    """Of one budget.

    Attributes:
        share: Of the samples that are reviewed.
        budget: How many that is.
        precision: Expected share of them whose label is wrong.
        recall: Share of planted flips that score as high as the last of them.
    """

    share: float
    budget: int
    precision: float
    recall: float


def review_curve(
    probability_N: NDArray[np.float64], canary_B: NDArray[np.float64], shares: Sequence[float]
) -> list[ReviewPoint]:
    """One point a budget, in the order given.

    Args:
        probability_N: P(label is wrong) of the samples that may be reviewed, calibrated by the canaries.
        canary_B: The same of planted flips.
        shares: Budgets as shares of the samples; at least one sample is reviewed.
    """
    descending_N = -np.sort(-probability_N)
    mean_N = np.cumsum(descending_N) / np.arange(1, len(descending_N) + 1)
    points = []
    for share in shares:
        budget = min(len(descending_N), max(1, round(share * len(descending_N))))
        if budget == 0:
            break
        points.append(
            ReviewPoint(
                share=share,
                budget=budget,
                precision=float(mean_N[budget - 1]),
                recall=canary_recall(canary_B, float(descending_N[budget - 1])),
            )
        )
    return points


def canary_recall(canary_B: NDArray[np.float64], least: float) -> float:
    """Share of planted flips that score at least so high; 0 without any."""
    return float((canary_B >= least).mean()) if len(canary_B) else 0.0
