"""How well review by issue score does: precision and recall at a budget, told by planted flips.

Recall is that of the planted flips. Precision is the mean of P(wrong) among the reviewed under a mixture of two kinds
of scores: wrong labels, normal, started at the planted flips and never wider than them; right labels, Student's t,
because some right labels look odd. The mixture may move the wrong ones from where flips lie: real ones are rarely as
easy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DEGREES = 10.0
"""Of freedom, of the scores of right labels: tails heavier than normal."""

ROUNDS = 300
_TINY = 1e-300

Array = NDArray[np.float64]


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


def review_curve(probability_N: Array, wrong_N: Array, canary_B: Array, shares: Sequence[float]) -> list[ReviewPoint]:
    """One point a budget, in the order given; none without samples.

    Args:
        probability_N: Issue scores of the samples that may be reviewed, in [0, 1].
        wrong_N: What `expected_wrong` says of them.
        canary_B: Issue scores of planted flips.
        shares: Budgets as shares of the samples; at least one sample is reviewed.
    """
    order_N = np.argsort(-probability_N, kind="stable")
    mean_N = np.cumsum(wrong_N[order_N]) / np.arange(1, len(order_N) + 1)
    budgets = [(share, min(len(order_N), max(1, round(share * len(order_N))))) for share in shares]
    return [
        ReviewPoint(
            share=share,
            budget=budget,
            precision=float(mean_N[budget - 1]),
            recall=canary_recall(canary_B, float(probability_N[order_N[budget - 1]])),
        )
        for share, budget in budgets
        if budget
    ]


def canary_recall(canary_B: Array, least: float) -> float:
    """Share of planted flips that score at least so high; 0 without any."""
    return float((canary_B >= least).mean()) if len(canary_B) else 0.0


def expected_wrong(probability_N: Array, canary_B: Array) -> Array:
    """P(wrong) of each sample (N,) under the mixture, never falling as scores rise.

    Where either kind has no spread the scores are returned as they are.

    Args:
        probability_N: Issue scores, in [0, 1].
        canary_B: Those of planted flips.
    """
    score_N, flip_B = _log_odds(probability_N), _log_odds(canary_B)
    rest = score_N[score_N < np.quantile(flip_B, 0.02)] if len(flip_B) else score_N[:0]
    if len(rest) < 2 or rest.std() == 0 or flip_B.std() == 0:
        return probability_N
    widest = spread = float(flip_B.std())
    center, right, right_spread = float(flip_B.mean()), float(np.median(rest)), float(rest.std())
    share = max(float((score_N >= np.quantile(flip_B, 0.1)).mean()), 1e-3)
    wrong_N = np.zeros(len(score_N))
    for _ in range(ROUNDS):
        distance_N = ((score_N - right) / right_spread) ** 2
        like_N = share * np.exp(-0.5 * ((score_N - center) / spread) ** 2) / spread
        unlike_N = (1 - share) * (1 + distance_N / DEGREES) ** (-(DEGREES + 1) / 2) / right_spread
        wrong_N = np.where(score_N < right, 0.0, like_N / (like_N + unlike_N + _TINY))
        if wrong_N.sum() < 1e-6 or wrong_N.sum() > len(score_N) - 1e-6:
            break
        share, center = float(wrong_N.mean()), float(np.average(score_N, weights=wrong_N))
        spread = min(widest, float(np.sqrt(np.average((score_N - center) ** 2, weights=wrong_N))) + 1e-9)
        steady_N = (1 - wrong_N) * (DEGREES + 1) / (DEGREES + distance_N)  # what lies far out moves the centre little
        right = float(np.average(score_N, weights=steady_N))
        right_spread = float(np.sqrt((steady_N * (score_N - right) ** 2).sum() / (1 - wrong_N).sum())) + 1e-9
    return _rising(wrong_N, score_N)


def _rising(wrong_N: Array, score_N: Array) -> Array:
    """The heavier tail must not win back what scores highest of all."""
    order_N = np.argsort(score_N, kind="stable")
    found_N = np.empty_like(wrong_N)
    found_N[order_N] = np.maximum.accumulate(wrong_N[order_N])
    return found_N


def _log_odds(probability_N: Array) -> Array:
    bounded_N = np.clip(probability_N, _TINY, 1 - 1e-16)
    odds_N: Array = np.log(bounded_N) - np.log1p(-bounded_N)
    return odds_N
