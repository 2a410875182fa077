"""How far samples are from everything: distance to the k-th neighbour, beside what is usual."""

from __future__ import annotations

import torch
from torch import Tensor


def typical_distance(distance_NK: Tensor) -> float:
    """Median distance (not squared) to the last of the neighbours given, of the samples that have it above 0; else 0.

    Args:
        distance_NK: Squared distances of unit vectors, nearest first.
    """
    far_N = _farthest(distance_NK)
    apart_A = far_N[far_N > 0]
    return float(apart_A.median()) if len(apart_A) else 0.0


def outlier_scores(distance_NK: Tensor) -> Tensor:
    """Distance to the k-th neighbour over what is typical of it (N,); zeros where all are the same.

    Args:
        distance_NK: Squared distances to the k nearest neighbours, nearest first.
    """
    typical = typical_distance(distance_NK)
    return _farthest(distance_NK) / (typical or 1.0)


def _farthest(distance_NK: Tensor) -> Tensor:
    if distance_NK.shape[1] == 0:
        return torch.zeros(len(distance_NK), dtype=torch.float64, device=distance_NK.device)
    return distance_NK[:, -1].double().sqrt()
