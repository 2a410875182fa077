"""Votes of nearest neighbours for labels: the farther one is, and the less its label is trusted, the less it counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eif_engine.functional.neighbors import BLOCK_BYTES, nearest
from eif_engine.functional.similarity_bound import SimilarityBound

FLOOR = 0.01
"""Share of a vote that no label can fall below: neighbours that all agree are strong evidence, not proof."""


@dataclass(frozen=True)
class Neighborhood:
    """Nearest other rows of some rows.

    Attributes:
        neighbor_QK: Row numbers, nearest first.
        distance_QK: Squared distances of unit vectors, in [0, 4].
    """

    neighbor_QK: Tensor
    distance_QK: Tensor

    @classmethod
    def joined(cls, parts: Sequence[Neighborhood]) -> Neighborhood:
        """Of the rows of one after those of the other."""
        return cls(torch.cat([part.neighbor_QK for part in parts]), torch.cat([part.distance_QK for part in parts]))

    def nearest(self, count: int) -> Neighborhood:
        """The nearest `count` of each row, or all where there are fewer."""
        return Neighborhood(self.neighbor_QK[:, :count], self.distance_QK[:, :count])

    def take(self, rows_B: Tensor) -> Neighborhood:
        """Of some of the rows."""
        return Neighborhood(self.neighbor_QK[rows_B], self.distance_QK[rows_B])

    def replaced(self, rows_Q: Tensor, other: Neighborhood) -> Neighborhood:
        """With the neighbours of some rows taken from elsewhere."""
        return Neighborhood(
            self.neighbor_QK.index_copy(0, rows_Q, other.neighbor_QK),
            self.distance_QK.index_copy(0, rows_Q, other.distance_QK),
        )


def neighborhood(
    v_NF: Tensor,
    rows_Q: Tensor,
    count: int,
    *,
    block_bytes: int = BLOCK_BYTES,
    unit: bool = False,
    bound: SimilarityBound | None = None,
) -> Neighborhood:
    """The nearest neighbours of rows in the order of `rows_Q`; `count`, `unit` and `bound` as in `nearest`."""
    found = [
        (neighbors, distances)
        for _, neighbors, distances in nearest(v_NF, rows_Q, count, block_bytes=block_bytes, unit=unit, bound=bound)
    ]
    return Neighborhood(torch.cat([neighbors for neighbors, _ in found]), torch.cat([far for _, far in found]))


def vote_shares(
    near: Neighborhood, labels_N: Tensor, trust_N: Tensor, asked_QJ: Tensor, *, temperature: float
) -> Tensor:
    """Share (Q, J) of the vote for each label asked about, in [0, 1]; 0 where no neighbour is trusted.

    Args:
        near: The neighbours of Q rows.
        labels_N: Labels of all rows.
        trust_N: Trust in them, in [0, 1].
        asked_QJ: Labels asked about.
        temperature: Scale of cosine similarity over which a weight falls by e.
    """
    distance_QK = near.distance_QK.double()
    closeness_QK = torch.exp((distance_QK[:, :1] - distance_QK) / (2 * temperature))
    weight_QK = closeness_QK * trust_N[near.neighbor_QK].double()
    label_QK = labels_N[near.neighbor_QK]
    total_Q = weight_QK.sum(dim=1).clamp_min(1e-300)
    for_label = [(weight_QK * (label_QK == asked_Q[:, None])).sum(dim=1) / total_Q for asked_Q in asked_QJ.unbind(1)]
    return torch.stack(for_label, dim=1)


def disagreement(share_Q: Tensor) -> Tensor:
    """Log odds (Q,) against the label that has this share of the vote."""
    return torch.log((1 - share_Q).clamp_min(0) + FLOOR) - torch.log(share_Q + FLOOR)


def supporters(near: Neighborhood, labels_N: Tensor, asked_Q: Tensor, count: int) -> Tensor:
    """The nearest `count` neighbours (Q, count) with the label asked about, nearest first; -1 where there are fewer."""
    agrees_QK = labels_N[near.neighbor_QK] == asked_Q[:, None]
    order_QK = torch.sort((~agrees_QK).to(torch.int8), dim=1, stable=True).indices[:, :count]
    found_QS = near.neighbor_QK.gather(1, order_QK).where(agrees_QK.gather(1, order_QK), -1)
    return torch.nn.functional.pad(found_QS, (0, count - found_QS.shape[1]), value=-1)
