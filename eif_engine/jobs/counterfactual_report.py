"""What a counterfactual check reports; no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

NONE = "none"
"""The arm that every report has: retrained on the training set as it is."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A mean over the draws of an arm, and its standard error; None for a single draw."""

    mean: float
    standard_error: float | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> Measure:
        """From one value a draw."""
        error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
        return cls(mean=fmean(values), standard_error=error)


@dataclass(frozen=True, kw_only=True)
class ArmReport:
    """What an arm led to.

    Attributes:
        draws: How many times it was drawn.
        reweighted: Samples of the first draw with a weight other than 1.
        relabelled: Samples of the first draw with another label.
        distance: Of the query, after retraining.
        distance_gain: That less `none`'s.
        recall_at_1: Of the test set, after retraining; in [0, 1].
        recall_gain: That less `none`'s.
    """

    draws: int
    reweighted: int
    relabelled: int
    distance: Measure
    distance_gain: Measure
    recall_at_1: Measure
    recall_gain: Measure


@dataclass(frozen=True, kw_only=True)
class CounterfactualReport:
    """What became of one query.

    Attributes:
        query_id: Which.
        distance: Its distance at the checkpoint.
        recall_at_1: Of the test set at the checkpoint.
        arms: By name, `none` first, then in the order given.
    """

    query_id: str
    distance: float
    recall_at_1: float
    arms: dict[str, ArmReport]
