"""Quality of retrieval: recall@k and MAP@R (Musgrave et al., ECCV 2020), every sample once as the query.

    recall@k = share of queries with a sample of their label among the k nearest others
    MAP@R    = mean over queries of 1/R sum_{i <= R} P(i) rel(i),  R = other samples of the query's label

P(i) is the precision among the i nearest, rel(i) whether the i-th is right. Neighbours are exact, equals by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eif_engine.functional.neighbors import BLOCK_BYTES, nearest


@dataclass(frozen=True)
class Retrieval:
    """What each test sample finds.

    Attributes:
        neighbor_M: Its nearest other sample.
        distance_M: Squared distance to it, in [0, 4].
        first_hit_M: Place from 1 of the nearest other sample with its label; beyond every k asked for where farther.
        average_precision_M: Precision averaged over its R nearest; NaN where no other sample has its label.
    """

    neighbor_M: Tensor
    distance_M: Tensor
    first_hit_M: Tensor
    average_precision_M: Tensor

    def recall_at(self, k: int) -> Tensor:
        """Whether a sample of its label is among the k nearest (M,)."""
        return self.first_hit_M <= k


def retrieve(
    z_MD: Tensor, labels_M: Tensor, recall_at: Sequence[int] = (1,), *, block_bytes: int = BLOCK_BYTES
) -> Retrieval:
    """What each sample finds among the others. Needs M >= 2.

    Args:
        z_MD: Embeddings; need not be normalised.
        labels_M: Class indices.
        recall_at: The k that will be asked for.
        block_bytes: Memory of a block of similarities.
    """
    M, most = len(z_MD), max(recall_at)
    relevant_M = torch.bincount(labels_M)[labels_M] - 1
    found = Retrieval(
        neighbor_M=torch.zeros(M, dtype=torch.int64, device=z_MD.device),
        distance_M=torch.zeros(M, dtype=z_MD.dtype, device=z_MD.device),
        first_hit_M=torch.full((M,), M, dtype=torch.int64, device=z_MD.device),
        average_precision_M=torch.full((M,), torch.nan, dtype=torch.float64, device=z_MD.device),
    )
    # Queries by the power of two of what they need: few searches, none much deeper than its queries ask for.
    depth_M = relevant_M.clamp_min(most).double().log2().ceil().long()
    for depth in torch.unique(depth_M).tolist():
        rows_Q = (depth_M == depth).nonzero().flatten()
        count = int(relevant_M[rows_Q].clamp_min(most).max())
        for rows_B, neighbor_BK, distance_BK in nearest(z_MD, rows_Q, count, block_bytes=block_bytes):
            hit_BK = labels_M[neighbor_BK] == labels_M[rows_B, None]
            found.neighbor_M[rows_B], found.distance_M[rows_B] = neighbor_BK[:, 0], distance_BK[:, 0]
            found.first_hit_M[rows_B] = _first(hit_BK, beyond=M)
            found.average_precision_M[rows_B] = average_precision(hit_BK, relevant_M[rows_B])
    return found


def average_precision(hit_BK: Tensor, relevant_B: Tensor) -> Tensor:
    """1/R of the sum of the precisions at the hits among the R nearest (B,); NaN where R is 0.

    Args:
        hit_BK: Whether each neighbour has the label, nearest first; K is at least every R.
        relevant_B: R.
    """
    place_K = torch.arange(1, hit_BK.shape[1] + 1, device=hit_BK.device)
    counted_BK = hit_BK & (place_K <= relevant_B[:, None])
    precision_BK = counted_BK.cumsum(dim=1).double() / place_K
    return precision_BK.where(counted_BK, 0.0).sum(dim=1) / relevant_B.double().where(relevant_B > 0, torch.nan)


def _first(hit_BK: Tensor, *, beyond: int) -> Tensor:
    """Place from 1 of the first hit (B,)."""
    return (hit_BK.int().argmax(dim=1) + 1).where(hit_BK.any(dim=1), beyond + 1)
