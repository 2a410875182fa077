"""Classes whose centres overlap: perhaps one identity under two labels.

    overlap(a, b) = twice the error of telling a and b apart by the nearer centre,  a sample's own centre without itself

For two Gaussians of one covariance whose centres are delta standard deviations apart that is `2 Phi(-delta / 2)`, their
overlapping coefficient: 1 for one distribution, 0 for classes that are apart. Being counted on samples it needs no
estimate of the spread, which twenty samples in hundreds of dimensions do not give; leaving the sample out keeps a class
from looking compact only because its centre was drawn from it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from eif_engine.functional.neighbors import blocks, nearest

NEAR_CENTERS = 5
"""Centres that each class is compared with."""

ENOUGH = 3
"""Fewer samples do not tell where a class is."""


def overlaps(v_NF: Tensor, labels_N: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Pairs of classes with near centres (P, 2), the lower first, ascending, and their overlaps (P,), in [0, 1].

    Args:
        v_NF: Vectors; L2-normalised here.
        labels_N: Class indices.
        num_classes: C.
    """
    count_C = torch.bincount(labels_N, minlength=num_classes)
    center_CF = _centers(v_NF, labels_N, count_C)
    pair_PS = _near_centers(center_CF, (count_C >= ENOUGH).nonzero().flatten())
    if len(pair_PS) == 0:
        return pair_PS, torch.zeros(0, dtype=torch.float64, device=v_NF.device)
    order_N = torch.sort(labels_N, stable=True).indices
    start_C = torch.cumsum(count_C, 0) - count_C
    error_PS = torch.zeros(pair_PS.shape, dtype=torch.float64, device=v_NF.device)
    side_TS = torch.cat((pair_PS, pair_PS.flip(1)))  # each pair from both sides: samples of the first class
    by_class_T = torch.sort(side_TS[:, 0], stable=True).indices
    _, sizes = torch.unique_consecutive(side_TS[by_class_T, 0], return_counts=True)
    for part in torch.split(by_class_T, sizes.tolist()):
        own, others = int(side_TS[part[0], 0]), side_TS[part, 1]
        rows_B = order_N[start_C[own] : start_C[own] + count_C[own]]
        error_O = _errors(v_NF, rows_B, center_CF[own], int(count_C[own]), center_CF[others])
        error_PS[part % len(pair_PS), part // len(pair_PS)] = error_O
    return pair_PS, error_PS.sum(dim=1).clamp_max(1.0)


def _centers(v_NF: Tensor, labels_N: Tensor, count_C: Tensor) -> Tensor:
    """Means (C, F) of unit vectors, in float64."""
    sum_CF = torch.zeros(len(count_C), v_NF.shape[1], dtype=torch.float64, device=v_NF.device)
    for part in blocks(len(v_NF), v_NF.shape[1], 8):
        sum_CF.index_add_(0, labels_N[part], F.normalize(v_NF[part].double(), dim=1))
    return sum_CF / count_C.clamp_min(1)[:, None]


def _near_centers(center_CF: Tensor, classes_A: Tensor) -> Tensor:
    if len(classes_A) < 2:
        return torch.zeros(0, 2, dtype=torch.int64, device=center_CF.device)
    among_AF = center_CF[classes_A] - center_CF[classes_A].mean(dim=0)
    rows_A = torch.arange(len(classes_A), device=center_CF.device)
    found = [
        torch.stack((rows_B[:, None].expand_as(neighbor_BK), neighbor_BK), dim=2).flatten(0, 1)
        for rows_B, neighbor_BK, _ in nearest(among_AF, rows_A, NEAR_CENTERS)
    ]
    pair_PS: Tensor = torch.unique(classes_A[torch.cat(found)].sort(dim=1).values, dim=0)
    return pair_PS


def _errors(v_NF: Tensor, rows_B: Tensor, own_F: Tensor, count: int, other_OF: Tensor) -> Tensor:
    """Share (O,) of samples of a class nearer to another centre than to their own without themselves; ties half."""
    wrong_O = torch.zeros(len(other_OF), dtype=torch.float64, device=v_NF.device)
    for part in blocks(len(rows_B), v_NF.shape[1], 8):
        x_BF = F.normalize(v_NF[rows_B[part]].double(), dim=1)
        own_B = (x_BF - own_F).square().sum(dim=1) * (count / (count - 1)) ** 2
        other_BO = torch.stack([(x_BF - other_F).square().sum(dim=1) for other_F in other_OF], dim=1)
        wrong_O += (other_BO < own_B[:, None]).sum(dim=0) + 0.5 * (other_BO == own_B[:, None]).sum(dim=0)
    return wrong_O / max(1, len(rows_B))
