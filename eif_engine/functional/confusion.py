"""Distance of confusions under a moved head, and its gradient, in the span of each confusion's own rows.

A query has R = 2G pair rows: first the G samples, then their G neighbours. Its distance `d` is the mean over its pairs.
Any gradient of d with respect to the head weight is `A^T x_R`, with `A_RD = dd/dz_R`, so a moved head is kept as A.
"""

from __future__ import annotations

import torch
from torch import Tensor

from eif_engine.config import Distance
from eif_engine.functional.distance import pair_distances


def query_distance(z_QRD: Tensor, distance: Distance) -> Tensor:
    """Mean distances d (Q,) of the pairs whose embeddings are the halves of the rows of each query."""
    z_QGD, z_neighbor_QGD = z_QRD.chunk(2, dim=-2)
    return pair_distances(z_QGD, z_neighbor_QGD, distance).mean(-1)


def query_gradient(z_QRD: Tensor, distance: Distance) -> Tensor:
    """A_QRD = dd/dz_R: the gradient of d in the head weight is `A^T x_R`."""
    with torch.enable_grad():
        leaf_QRD = z_QRD.detach().requires_grad_()
        (a_QRD,) = torch.autograd.grad(query_distance(leaf_QRD, distance).sum(), leaf_QRD)
    return a_QRD
