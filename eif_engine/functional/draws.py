"""Random numbers that belong to samples: they stay with a sample when others come, go or change places.

What is drawn by position is drawn anew for every sample when a set grows by one, and findings near a threshold come and
go with it. Here each number is a hash of the sample's key, the seed and the occasion (SplitMix64's finaliser, Steele et
al., OOPSLA 2014), so a set that grows by a hundredth keeps nearly all of its draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_LEAST = 2.0**-54  # half of the smallest step between two numbers


def keys_of(sample_ids: Sequence[str]) -> Tensor:
    """One key (N,) int64 a sample, from its id."""
    digests = [blake2b(sample_id.encode(), digest_size=8).digest() for sample_id in sample_ids]
    return torch.from_numpy(np.frombuffer(b"".join(digests), dtype=np.int64).copy())


class Draws:
    """Draws for N samples.

    Args:
        keys_N: One int64 a sample, the same wherever the sample is.
        seed: Of all draws.
    """

    def __init__(self, keys_N: Tensor, seed: int) -> None:
        start = _mixed(np.array([seed % 2**64], dtype=np.uint64))
        self._keys_N = _mixed(keys_N.cpu().numpy().view(np.uint64) ^ start)
        self._occasions = 0

    @classmethod
    def by_row(cls, samples: int, seed: int) -> Draws:
        """For samples that are told by their row alone: draws stay where samples are added at the end."""
        return cls(torch.arange(samples), seed)

    def uniform(self, rows_B: Tensor | None = None) -> Tensor:
        """The next numbers of some samples, or all: float64 in (0, 1)."""
        self._occasions += 1
        keys_B = self._keys_N if rows_B is None else self._keys_N[rows_B.cpu().numpy()]
        with np.errstate(over="ignore"):
            hashed_B = _mixed(keys_B + np.uint64(self._occasions) * _GOLDEN)
        return torch.from_numpy((hashed_B >> np.uint64(11)).astype(np.float64) * 2.0**-53 + _LEAST)

    def integers(self, below: int, rows_B: Tensor) -> Tensor:
        """The next numbers of some samples: int64 in [0, below)."""
        return (self.uniform(rows_B) * below).long().clamp_max_(below - 1)

    def normal(self, rows_B: Tensor) -> Tensor:
        """The next numbers of some samples: float64, standard normal."""
        normal_B: Tensor = torch.special.ndtri(self.uniform(rows_B))
        return normal_B

    def rows(self, count: int) -> Tensor:
        """So many samples drawn evenly from all (count,), ascending."""
        return self.uniform().argsort(stable=True)[:count].sort().values


def _mixed(value_N: NDArray[np.uint64]) -> NDArray[np.uint64]:
    value_N = (value_N ^ (value_N >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value_N = (value_N ^ (value_N >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value_N ^ (value_N >> np.uint64(31))
