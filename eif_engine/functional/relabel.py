"""A label by the vote of neighbours (relabel, algorithm 1): each votes for its label with weight exp(-distance)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from eif_engine.config import VoteRule


@dataclass(frozen=True, kw_only=True)
class Vote:
    """The outcome of a vote.

    Attributes:
        label: The winner; equal shares go to the label in text order.
        probability: Its share, in [0, 1].
        own_probability: The share of the label the sample has now, in [0, 1].
    """

    label: str
    probability: float
    own_probability: float


def vote(labels: Sequence[str], distances: Sequence[float], *, own_label: str, rule: VoteRule) -> Vote:
    """Let neighbours vote. Without neighbours the sample keeps its label, with probability 1."""
    if not labels:
        return Vote(label=own_label, probability=1.0, own_probability=1.0)
    weights: dict[str, float] = defaultdict(float)
    counts: dict[str, int] = defaultdict(int)
    for label, distance in zip(labels, distances, strict=True):
        weights[label] += math.exp(-distance)
        counts[label] += 1
    shares = weights if rule is VoteRule.SOFT else counts
    total = math.fsum(shares.values())
    # Among equal shares the heavier label wins, then the first in text order, so that the result is one.
    winner = min(shares, key=lambda label: (-shares[label], -weights[label], label))
    return Vote(label=winner, probability=shares[winner] / total, own_probability=shares.get(own_label, 0) / total)


def median_shots(labels: Sequence[str]) -> int:
    """The default K: the median number of samples in a class, at least 1."""
    counts: dict[str, int] = defaultdict(int)
    for label in labels:
        counts[label] += 1
    return max(1, int(median(counts.values()))) if counts else 1
