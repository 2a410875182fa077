"""Distance of a confusion under a moved head, and its gradient, in the span of the confusion's own rows.

A query has pair rows x_RF: first the G samples, then their G neighbours. Its distance `d` is the mean over its pairs.
Any gradient of d with respect to the head weight is `A^T x_R`, with `A_RD = dd/dz_R`, so a moved head is kept as A.
"""

from __future__ import annotations

import torch
from torch import Tensor

from eif_engine.config import Distance
from eif_engine.functional.distance import pair_distances


def query_distance(z_RD: Tensor, distance: Distance) -> Tensor:
    """d: mean distance of the pairs whose embeddings are the halves of z_RD."""
    z_GD, z_neighbor_GD = z_RD.chunk(2)
    return pair_distances(z_GD, z_neighbor_GD, distance).mean()


def query_gradient(z_RD: Tensor, distance: Distance) -> tuple[Tensor, Tensor]:
    """d, and A_RD = dd/dz_R: the gradient of d in the head weight is `A^T x_R`."""
    with torch.enable_grad():
        leaf_RD = z_RD.detach().requires_grad_()
        value = query_distance(leaf_RD, distance)
        (a_RD,) = torch.autograd.grad(value, leaf_RD)
    return value.detach(), a_RD
