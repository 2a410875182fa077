"""What to do about a class, by the labels that are suggested for its samples (the field study of the EIF paper)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

SIGNIFICANT = 0.10
"""Share of a class recommended elsewhere from which the class as a whole needs something."""

SINGLE = 0.05
"""Share up to which single samples do."""

CONCENTRATED = 0.35
"""Entropy of the targets below which they are one class."""


class Advice(StrEnum):
    """What a class needs."""

    CENTRALIZED = "CENTRALIZED"
    DIVERSIFIED = "DIVERSIFIED"
    INDIVIDUAL = "INDIVIDUAL"
    OTHER = "OTHER"
    NONE = "NONE"


@dataclass(frozen=True, kw_only=True)
class ClassAdvice:
    """Of one class.

    Attributes:
        samples: How many it has.
        elsewhere: Share of them for which another label is suggested.
        entropy: Of those labels, over the log of their number, in [0, 1]; 0 for one label.
        top_target: The most frequent of them, the lowest among equals; None without one.
        top_share: Its share among them.
        advice: What the class needs.
    """

    samples: int
    elsewhere: float
    entropy: float
    top_target: int | None
    top_share: float
    advice: Advice


def advise(labels_N: NDArray[np.int64], suggested_N: NDArray[np.int64], num_classes: int) -> list[ClassAdvice]:
    """Advice for every class.

    Args:
        labels_N: Given labels.
        suggested_N: Suggested ones; the given one where nothing is to be done.
        num_classes: C.
    """
    samples_C = np.bincount(labels_N, minlength=num_classes)
    moved = labels_N != suggested_N
    steps, counts_S = np.unique(np.stack((labels_N[moved], suggested_N[moved]), axis=1), axis=0, return_counts=True)
    edges = np.searchsorted(steps[:, 0], np.arange(num_classes + 1))
    return [
        _of_class(int(samples_C[c]), steps[edges[c] : edges[c + 1], 1], counts_S[edges[c] : edges[c + 1]])
        for c in range(num_classes)
    ]


def _of_class(samples: int, targets_T: NDArray[np.int64], counts_T: NDArray[np.int64]) -> ClassAdvice:
    count = int(counts_T.sum())
    if count == 0:
        return ClassAdvice(
            samples=samples, elsewhere=0.0, entropy=0.0, top_target=None, top_share=0.0, advice=Advice.NONE
        )
    share_T = counts_T / count
    entropy = float(-(share_T * np.log(share_T)).sum() / np.log(len(share_T))) if len(share_T) > 1 else 0.0
    top = int(counts_T.argmax())
    return ClassAdvice(
        samples=samples,
        elsewhere=count / samples,
        entropy=entropy,
        top_target=int(targets_T[top]),
        top_share=float(share_T[top]),
        advice=_advice(count, count / samples, entropy),
    )


def _advice(count: int, elsewhere: float, entropy: float) -> Advice:
    if elsewhere <= SINGLE or count == 1:  # one sample is no pattern, however small its class
        return Advice.INDIVIDUAL
    if elsewhere < SIGNIFICANT:
        return Advice.OTHER
    return Advice.CENTRALIZED if entropy < CONCENTRATED else Advice.DIVERSIFIED
