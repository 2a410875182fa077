"""Distance of a pair, on L2-normalised embeddings (DESIGN: squared, as published; Euclidean and cosine by option)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from eif_engine.config import Distance


def pair_distances(z_GD: Tensor, z_neighbor_GD: Tensor, distance: Distance) -> Tensor:
    """Distances (..., G) of embeddings (..., G, D), normalised here: squared in [0, 4], Euclidean and cosine in [0, 2].

    The Euclidean distance of two equal embeddings has gradient 0, as if they were a hair apart in no direction.
    """
    difference_GD = F.normalize(z_GD, dim=-1) - F.normalize(z_neighbor_GD, dim=-1)
    squared_G = difference_GD.square().sum(dim=-1)
    if distance is Distance.SQUARED_EUCLIDEAN:
        return squared_G
    if distance is Distance.COSINE:
        return squared_G / 2
    apart_G = squared_G > 0
    return squared_G.where(apart_G, 1.0).sqrt().where(apart_G, 0.0)
