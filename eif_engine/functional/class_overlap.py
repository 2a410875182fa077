"""Classes whose centres overlap: perhaps one identity under two labels.

    overlap(a, b) = twice the error of telling a and b apart by the nearer centre,  a sample's own centre without itself

For two Gaussians of one covariance whose centres are delta standard deviations apart that is `2 Phi(-delta / 2)`, their
overlapping coefficient: 1 for one distribution, 0 for classes that are apart. Being counted on samples it needs no
estimate of the spread, which twenty samples in hundreds of dimensions do not give; leaving the sample out keeps a class
from looking compact only because its centre was drawn from it.

Samples that look like a third class say nothing about two of them, and move the centres of small classes far: they are
left out. Those of one class that look like the other stay: they are what overlap is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from eif_engine.functional.neighbors import blocks, nearest

NEAR_CENTERS = 5
"""Centres that each class is compared with."""

ENOUGH = 3
"""Fewer samples do not tell where a class is."""


def overlaps(
    v_NF: Tensor, labels_N: Tensor, num_classes: int, *, suggested_N: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Pairs of classes with near centres (P, 2), the lower first, ascending, and their overlaps (P,), in [0, 1].

    Args:
        v_NF: Vectors; L2-normalised here.
        labels_N: Class indices.
        num_classes: C.
        suggested_N: The class that each sample looks like, its own where that is in no doubt; None: none is in doubt.
    """
    suggested_N = labels_N if suggested_N is None else suggested_N
    count_C = torch.bincount(labels_N, minlength=num_classes)
    sum_CF = _sums(v_NF, labels_N, num_classes)
    pair_PS = _near_centers(sum_CF / count_C.clamp_min(1)[:, None], (count_C >= ENOUGH).nonzero().flatten())
    if len(pair_PS) == 0:
        return pair_PS, torch.zeros(0, dtype=torch.float64, device=v_NF.device)
    centers = _Centers.of(v_NF, labels_N, suggested_N, sum_CF, count_C)
    order_N = torch.sort(labels_N, stable=True).indices
    start_C = torch.cumsum(count_C, 0) - count_C
    error_PS = torch.zeros(pair_PS.shape, dtype=torch.float64, device=v_NF.device)
    side_TS = torch.cat((pair_PS, pair_PS.flip(1)))  # each pair from both sides: samples of the first class
    by_class_T = torch.sort(side_TS[:, 0], stable=True).indices
    _, sizes = torch.unique_consecutive(side_TS[by_class_T, 0], return_counts=True)
    for part in torch.split(by_class_T, sizes.tolist()):
        own, others = int(side_TS[part[0], 0]), side_TS[part, 1].tolist()
        rows_B = order_N[start_C[own] : start_C[own] + count_C[own]]
        error_O = _errors(v_NF, rows_B, suggested_N[rows_B], centers, own=own, others=others)
        error_PS[part % len(pair_PS), part // len(pair_PS)] = error_O
    return pair_PS, error_PS.sum(dim=1).clamp_max(1.0)


@dataclass(frozen=True)
class _Centers:
    """Sums of unit vectors by class: of samples that look like their class, and by the other class they look like."""

    sum_CF: Tensor
    count_C: Tensor
    moved: dict[tuple[int, int], tuple[Tensor, int]]

    @classmethod
    def of(cls, v_NF: Tensor, labels_N: Tensor, suggested_N: Tensor, sum_CF: Tensor, count_C: Tensor) -> _Centers:
        moved = (labels_N != suggested_N).nonzero().flatten()
        if len(moved) == 0:
            return cls(sum_CF, count_C, {})
        steps_M = torch.stack((labels_N[moved], suggested_N[moved]), dim=1)
        step_SK, step_M, size_S = torch.unique(steps_M, dim=0, return_inverse=True, return_counts=True)
        sum_SF = _sums(v_NF[moved], step_M, len(step_SK))
        named = zip(step_SK.tolist(), sum_SF, size_S.tolist(), strict=True)
        return cls(
            sum_CF.index_add(0, step_SK[:, 0], sum_SF, alpha=-1),
            count_C.index_add(0, step_SK[:, 0], size_S, alpha=-1),
            {(own, other): (sum_F, size) for (own, other), sum_F, size in named},
        )

    def beside(self, own: int, other: int) -> tuple[Tensor, int]:
        """Centre (F,) of a class and its samples, without those that look like a third one."""
        sum_F, count = self.sum_CF[own], int(self.count_C[own])
        if (own, other) in self.moved:
            more_F, more = self.moved[own, other]
            sum_F, count = sum_F + more_F, count + more
        return sum_F / max(1, count), count


def _sums(v_NF: Tensor, labels_N: Tensor, num_classes: int) -> Tensor:
    """Sums (C, F) of unit vectors, in float64."""
    sum_CF = torch.zeros(num_classes, v_NF.shape[1], dtype=torch.float64, device=v_NF.device)
    for part in blocks(len(v_NF), v_NF.shape[1], 8):
        sum_CF.index_add_(0, labels_N[part], F.normalize(v_NF[part].double(), dim=1))
    return sum_CF


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


def _errors(
    v_NF: Tensor, rows_B: Tensor, suggested_B: Tensor, centers: _Centers, *, own: int, others: list[int]
) -> Tensor:
    """Share (O,) of samples of a class nearer to another centre than to their own without themselves; ties half.

    0 beside a class where too few samples of either are left.
    """
    wrong_O = torch.zeros(len(others), dtype=torch.float64, device=v_NF.device)
    told_O = torch.zeros_like(wrong_O)
    for part in blocks(len(rows_B), v_NF.shape[1], 8):
        x_BF = F.normalize(v_NF[rows_B[part]].double(), dim=1)
        alone_B: Tensor | None = None  # beside most others a class has the same samples
        for place, other in enumerate(others):
            (own_F, count), (other_F, other_count) = centers.beside(own, other), centers.beside(other, own)
            if min(count, other_count) < ENOUGH:
                continue
            counts_B = (suggested_B[part] == own) | (suggested_B[part] == other)
            same = (own, other) not in centers.moved
            if same and alone_B is not None:
                own_B = alone_B
            else:
                own_B = (x_BF - own_F).square().sum(dim=1) * (count / (count - 1)) ** 2
                alone_B = own_B if same else alone_B
            other_B = (x_BF - other_F).square().sum(dim=1)
            near_B, tied_B = (other_B < own_B) & counts_B, (other_B == own_B) & counts_B
            wrong_O[place] += near_B.sum() + 0.5 * tied_B.sum()
            told_O[place] += counts_B.sum()
    return wrong_O / told_O.clamp_min(1)
