"""The total order of a ranking, for all samples or for both of its ends: highest score first, then by sample id."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


class RankingOrder:
    """Orders scores as they are reported, in float32: further digits depend on the machine. Ids are sorted once.

    Args:
        sample_ids: Of the samples, by row.
    """

    def __init__(self, sample_ids: Sequence[str]) -> None:
        by_id = sorted(range(len(sample_ids)), key=sample_ids.__getitem__)
        self._place_N = np.empty(len(sample_ids), dtype=np.int64)
        self._place_N[by_id] = np.arange(len(sample_ids))

    def all(self, scores_N: NDArray[np.float32]) -> Rows:
        """Every row, the most harmful first."""
        return self._sorted(np.arange(len(scores_N)), scores_N)

    def ends(self, scores_N: NDArray[np.float32], count: int) -> tuple[Rows, Rows]:
        """Rows and their ranks (from 1): `count` from each end, or every row when the ends meet."""
        total = len(scores_N)
        if 2 * count >= total:
            return self.all(scores_N), np.arange(1, total + 1)
        parted = np.partition(scores_N, (count - 1, total - count))
        low, high = parted[count - 1], parted[total - count]
        head = self._sorted(np.flatnonzero(scores_N >= high), scores_N)[:count]
        tail = self._sorted(np.flatnonzero(scores_N <= low), scores_N)[-count:]
        ranks = np.concatenate([np.arange(1, count + 1), np.arange(total - count + 1, total + 1)])
        return np.concatenate([head, tail]), ranks

    def places(self, rows: Rows, scores: NDArray[np.float32]) -> Rows:
        """The order of some rows by their scores, as places among them."""
        return np.lexsort((self._place_N[rows], -scores))

    def _sorted(self, rows: Rows, scores_N: NDArray[np.float32]) -> Rows:
        return rows[np.lexsort((self._place_N[rows], -scores_N[rows]))]
