"""How far the model has pulled samples with a wrong label towards the class they were given.

With mu_c the mean of the class a sample shows and mu_b that of the class it was given, the pull is the position of the
sample along the line from mu_c (0) to mu_b (1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from torch import Tensor

FARTHEST = 0.9
"""A sample pulled farther would be one of the given class."""

WIDEST = 0.25
"""Variance no pull can have between 0 and 1."""


@dataclass(frozen=True)
class Pull:
    """Distribution of the pull: 0 not at all, 1 all the way to the mean of the given class."""

    mean: float = 0.0
    variance: float = 0.0

    def corrected(self, seen: Pull, found: Pull) -> Pull:
        """Changed by what `found`, in canaries moved with this one, falls short of `seen`, in suspects."""
        return Pull(
            min(max(self.mean + seen.mean - found.mean, 0.0), FARTHEST),
            min(max(self.variance + seen.variance - found.variance, 0.0), WIDEST),
        )

    @classmethod
    def mean_of(cls, several: Sequence[Pull]) -> Pull:
        """The mean of estimates of the same pull."""
        return cls(fmean(pull.mean for pull in several), fmean(pull.variance for pull in several))

    def of(self, normal_B: Tensor) -> Tensor:
        """Pulls (B,) of single samples from standard normal draws, in [0, 0.9]."""
        pull_B: Tensor = (self.mean + self.variance**0.5 * normal_B).clamp(0, FARTHEST)
        return pull_B


def estimate_pull(along_S: Tensor, length_S: Tensor) -> Pull:
    """The pull of suspects, of which there are some.

    Args:
        along_S: Inner product of `v - mu_c` and `mu_b - mu_c`, in coordinates in which classes have unit covariance.
        length_S: `|mu_b - mu_c|^2` there, above 0.
    """
    mean = along_S.sum() / length_S.sum()
    # Without any spread of the pull, the position of a sample has variance 1 / length.
    variance = (length_S * (along_S / length_S - mean).square() - 1).sum() / length_S.sum()
    return Pull(float(mean.clamp(0, FARTHEST)), float(variance.clamp(0, WIDEST)))
