"""Figure 2: how many flipped labels are found, going through the training set in order of influence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.paper.models import Model
from tests.benchmarks.paper.rankings import PUBLISHED, closest_pairs, scores

Floats = NDArray[np.float64]
PAIRS = 20
SHARES = np.linspace(0, 1, 201)
"""Shares of the training set at which curves are sampled."""


@dataclass(frozen=True)
class Curve:
    """Share of the flips found (y) in the first share of the samples (x, `SHARES`)."""

    name: str
    found: Floats


def curves(model: Model) -> list[Curve]:
    """Of one confusion (the mean over some) from each end and from both, and of all confusions together."""
    wrong_N = model.flipped_N
    scores_QN = scores(model.case, closest_pairs(model.case, None), PUBLISHED)
    some_QN = scores_QN[:PAIRS]
    ends = {"harmful end": -some_QN, "helpful end": some_QN, "both ends": -np.abs(some_QN)}
    single = [
        Curve(f"one pair, {name}", np.mean([found(keys_N, wrong_N) for keys_N in keys_QN], axis=0))
        for name, keys_QN in ends.items()
    ]
    everything = Curve("all pairs, both ends", found(-np.abs(scores_QN).sum(axis=0), wrong_N))
    return [*single, everything]


def found(keys_N: Floats, wrong_N: NDArray[np.bool_]) -> Floats:
    """Share of the wrong labels found at `SHARES`, samples in ascending order of their keys."""
    hits = np.concatenate([[0], np.cumsum(wrong_N[np.argsort(keys_N, kind="stable")])])
    at = np.rint(SHARES * len(wrong_N)).astype(np.int64)
    share: Floats = hits[at] / max(1, hits[-1])
    return share


def ideal(share_wrong: float) -> Floats:
    """Every wrong label first."""
    return np.minimum(1.0, SHARES / max(share_wrong, 1e-12))
