"""Harm over all confusions: who causes most of them, how sure that is, and where such samples come from.

A score of one query says who holds *that* confusion in place. Summed over queries it says who does damage on the whole.
Such a sum depends on which confusions the test set happens to hold, so each sample also gets an interval of ranks: its
rank in bootstrap resamples of the queries (Poisson weights, so that queries can be added as they come). Samples whose
intervals overlap are not told apart by this test set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from eif_engine.jobs.ranking import RankingOrder

_BLOCK = 32
"""Queries whose bootstrap sums are one matrix product, always the same ones: sums do not depend on chunks."""


@dataclass(frozen=True, kw_only=True)
class HarmConfig:
    """How harm is summed up.

    Attributes:
        replicates: Bootstrap resamples of the queries; 0 for none. Each takes 4 bytes a sample.
        level: Share of the resamples whose ranks the interval covers, in (0, 1).
        seed: Of the resamples.
    """

    replicates: int = 100
    level: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        if self.replicates < 0:
            raise ValueError(f"replicates must be at least 0, got {self.replicates}")
        if not 0 < self.level < 1:
            raise ValueError(f"level must lie between 0 and 1, got {self.level}")


@dataclass(frozen=True, kw_only=True)
class Harm:
    """Sums over queries, by training sample.

    Attributes:
        queries: How many.
        signed_N: Sums of the scores; above 0 harms on the whole.
        absolute_N: Sums of their absolute values: influence, for good or bad.
        positive_N: Sums of those above 0: harm that no help elsewhere makes up for.
        order_N: Rows by signed sum, the most harmful first.
        rank_N: Place of each row in it, from 1.
        rank_low_N: The best end of its interval; `rank_N` where there are no resamples.
        rank_high_N: The worst end.
    """

    queries: int
    signed_N: NDArray[np.float64]
    absolute_N: NDArray[np.float64]
    positive_N: NDArray[np.float64]
    order_N: NDArray[np.int64]
    rank_N: NDArray[np.int64]
    rank_low_N: NDArray[np.int64]
    rank_high_N: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class HarmOfValue:
    """Harm of the samples that share a value of a column: a label, a source, an annotator.

    Attributes:
        value: The value.
        samples: How many share it.
        signed: Sum of their signed sums.
        positive: Sum of their positive parts.
        share: Their part of all positive harm, in [0, 1].
        lift: `share` over their part of all samples: above 1 is more than their number explains.
    """

    value: str
    samples: int
    signed: float
    positive: float
    share: float
    lift: float


class HarmSum:
    """Adds up scores, query by query or in chunks; what comes out does not depend on how they are cut.

    Args:
        sample_ids: Of the training samples; they break ties.
        config: How harm is summed up.
    """

    def __init__(self, sample_ids: Sequence[str], config: HarmConfig) -> None:
        self._order, self._config = RankingOrder(sample_ids), config
        N = len(sample_ids)
        self._signed_N, self._absolute_N, self._positive_N = np.zeros(N), np.zeros(N), np.zeros(N)
        self._resampled_BN = np.zeros((config.replicates, N), dtype=np.float32)
        self._pending: list[NDArray[np.float32]] = []
        self._count = 0

    def add(self, scores_QN: Tensor) -> None:
        """Add queries that follow those before."""
        for scores_N in scores_QN.numpy():
            self._signed_N += scores_N
            self._absolute_N += np.abs(scores_N)
            self._positive_N += np.maximum(scores_N, 0)
            self._count += 1
            if self._config.replicates:
                self._pending.append(scores_N.astype(np.float32))
            if len(self._pending) == _BLOCK:
                self._resample()

    def harm(self) -> Harm:
        """The sums over what was added."""
        if self._pending:
            self._resample()
        order_N = self._order.all(self._signed_N.astype(np.float32))
        low_N, high_N = self._intervals(order_N)
        return Harm(
            queries=self._count,
            signed_N=self._signed_N,
            absolute_N=self._absolute_N,
            positive_N=self._positive_N,
            order_N=order_N,
            rank_N=_ranks(order_N),
            rank_low_N=low_N,
            rank_high_N=high_N,
        )

    def _resample(self) -> None:
        first = self._count - len(self._pending)
        generator = np.random.Generator(np.random.PCG64([self._config.seed, first // _BLOCK]))
        weights_BQ = generator.poisson(1.0, (self._config.replicates, _BLOCK)).astype(np.float32)
        self._resampled_BN += weights_BQ[:, : len(self._pending)] @ np.stack(self._pending)
        self._pending = []

    def _intervals(self, order_N: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        if not self._config.replicates:
            return _ranks(order_N), _ranks(order_N)
        ranks_BN = np.empty(self._resampled_BN.shape, dtype=np.int32)
        for replicate, sums_N in enumerate(self._resampled_BN):
            ranks_BN[replicate] = _ranks(self._order.all(sums_N))
        outside = (1 - self._config.level) / 2
        ranks_BN.sort(axis=0)
        last = self._config.replicates - 1
        low_N, high_N = ranks_BN[int(outside * last)], ranks_BN[last - int(outside * last)]
        rank_N = _ranks(order_N)  # the interval holds the rank itself, also when few resamples did
        return np.minimum(low_N, rank_N).astype(np.int64), np.maximum(high_N, rank_N).astype(np.int64)


def harm_by_value(harm: Harm, values_N: Sequence[str]) -> list[HarmOfValue]:
    """Harm by the values of a column; the largest positive harm first, then by value.

    Args:
        harm: By sample.
        values_N: The value of each sample.
    """
    names, codes_N, counts = np.unique(np.asarray(values_N, dtype=np.str_), return_inverse=True, return_counts=True)
    signed = np.bincount(codes_N, weights=harm.signed_N, minlength=len(names))
    positive = np.bincount(codes_N, weights=harm.positive_N, minlength=len(names))
    total = positive.sum()
    share = positive / total if total > 0 else np.zeros(len(names))
    found = [
        HarmOfValue(
            value=str(name),
            samples=int(counts[code]),
            signed=float(signed[code]),
            positive=float(positive[code]),
            share=float(share[code]),
            lift=float(share[code] * len(values_N) / counts[code]),
        )
        for code, name in enumerate(names)
    ]
    return sorted(found, key=lambda one: (-one.positive, one.value))


def _ranks(order_N: NDArray[np.int64]) -> NDArray[np.int64]:
    ranks_N = np.empty(len(order_N), dtype=np.int64)
    ranks_N[order_N] = np.arange(1, len(order_N) + 1)
    return ranks_N
