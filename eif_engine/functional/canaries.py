"""Planted canaries: labels flipped on purpose in a copy, to learn what a wrong label looks like in this data.

The model has seen the given labels, so it has pulled samples with truly wrong labels towards the class they were given;
a canary was learned with the label it is flipped from. It is therefore moved as the model would have moved it: by the
estimated pull times the difference of the two class means (`pull.Pull`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from eif_engine.functional.draws import Draws
from eif_engine.functional.neighbors import blocks

NEAR_CLASSES = 3
"""A flip goes to one of so many nearest classes where it is to be a hard one."""

EVEN_SHARE = 0.1
"""Share of flips to any class, and share of flips to a near one, whatever the suspects look like."""


@dataclass(frozen=True)
class Canaries:
    """Planted flips.

    Attributes:
        rows_B: Rows whose label was flipped, ascending.
        labels_B: Their wrong labels.
        given_B: The labels they had.
    """

    rows_B: Tensor
    labels_B: Tensor
    given_B: Tensor

    def flipped(self, labels_N: Tensor) -> Tensor:
        """A copy of the labels with the flips in it."""
        return labels_N.index_copy(0, self.rows_B, self.labels_B)

    def moved(self, v_NF: Tensor, mean_CF: Tensor, pull_B: Tensor) -> Tensor:
        """A copy of vectors in which each canary is pulled towards the class of its wrong label."""
        shift_BF = (pull_B[:, None].to(mean_CF) * (mean_CF[self.labels_B] - mean_CF[self.given_B])).to(v_NF)
        return v_NF.index_add(0, self.rows_B, shift_BF)


def class_means(v_NF: Tensor, labels_N: Tensor, trust_N: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Mean (C, F) of each class, samples weighed by trust, and its weight (C,); zeros for a class without samples."""
    sum_CF = torch.zeros(num_classes, v_NF.shape[1], dtype=torch.float64, device=v_NF.device)
    for part in blocks(len(v_NF), v_NF.shape[1], 8):
        sum_CF.index_add_(0, labels_N[part], trust_N[part, None].double() * v_NF[part].double())
    count_C = torch.zeros(num_classes, dtype=torch.float64, device=v_NF.device)
    count_C.index_add_(0, labels_N, trust_N.double())
    return sum_CF / count_C.clamp_min(1e-12)[:, None], count_C


def similarity_ranks(mean_CF: Tensor, count_C: Tensor, of_Q: Tensor, other_Q: Tensor) -> Tensor:
    """How many classes are more similar to a class than another one is (Q,): 0 for the most similar other class.

    Similar by the angle of the means from the overall mean; only classes with samples count.
    """
    unit_CF = _directions(mean_CF, count_C)
    found: list[Tensor] = []
    for part in blocks(len(of_Q), len(unit_CF), 8):
        cosine_BC = _cosines(unit_CF, count_C, of_Q[part])
        limit_BL = cosine_BC.gather(1, other_Q[part, None])
        found.append((cosine_BC > limit_BL).sum(dim=1))
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.int64, device=mean_CF.device)


def class_at_rank(mean_CF: Tensor, count_C: Tensor, of_Q: Tensor, rank_Q: Tensor) -> Tensor:
    """The class (Q,) that stands at a rank of similarity to a class; the lowest number among equals.

    Args:
        mean_CF: Class means.
        count_C: Weight of each class; a class without weight has no rank.
        of_Q: Classes that have weight.
        rank_Q: Ranks, cut to the number of other classes with weight.
    """
    unit_CF = _directions(mean_CF, count_C)
    last = int((count_C > 0).sum()) - 2
    found: list[Tensor] = []
    for part in blocks(len(of_Q), len(unit_CF), 16):
        order_BC = _cosines(unit_CF, count_C, of_Q[part]).sort(dim=1, descending=True, stable=True).indices
        found.append(order_BC.gather(1, rank_Q[part, None].clamp(0, last)).squeeze(1))
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.int64, device=mean_CF.device)


def draw_ranks(suspect_ranks_S: Tensor, rows_B: Tensor, *, classes: int, draws: Draws) -> Tensor:
    """Ranks of similarity (B,) for planted flips: mostly those seen in suspects, some even, some of the nearest.

    Args:
        suspect_ranks_S: Rank of the given label among the classes similar to the one a suspect seems to have.
        rows_B: The samples to be flipped.
        classes: Classes with samples, at least 2.
        draws: Of the samples.
    """
    anywhere_B = draws.integers(classes - 1, rows_B)
    near_B = draws.integers(min(NEAR_CLASSES, classes - 1), rows_B)
    which_B, seen_B = draws.uniform(rows_B), draws.uniform(rows_B)
    if len(suspect_ranks_S) == 0:
        return anywhere_B.where(which_B < 0.5, near_B)
    seen_S = suspect_ranks_S.cpu().sort().values  # in order, so that one more suspect changes few draws
    rank_B = seen_S[(seen_B * len(seen_S)).long().clamp_max(len(seen_S) - 1)]
    return rank_B.where(which_B >= 2 * EVEN_SHARE, anywhere_B.where(which_B < EVEN_SHARE, near_B))


def plant(labels_N: Tensor, rows_B: Tensor, ranks_B: Tensor, mean_CF: Tensor, count_C: Tensor) -> Canaries:
    """Flip the labels of some rows, each to the class at a given rank of similarity to its own.

    Args:
        labels_N: Given labels.
        rows_B: Rows, ascending.
        ranks_B: One rank a canary.
        mean_CF: Class means.
        count_C: Samples of each class.
    """
    rows_B = rows_B.to(labels_N.device)
    given_B = labels_N[rows_B]
    return Canaries(rows_B, class_at_rank(mean_CF, count_C, given_B, ranks_B.to(labels_N.device)), given_B)


def _directions(mean_CF: Tensor, count_C: Tensor) -> Tensor:
    overall_F = (mean_CF * count_C[:, None]).sum(dim=0) / count_C.sum().clamp_min(1e-12)
    return F.normalize(mean_CF - overall_F, dim=1)


def _cosines(unit_CF: Tensor, count_C: Tensor, of_B: Tensor) -> Tensor:
    """Cosines (B, C) of class directions; below -1 for classes without weight, and lowest for the class itself."""
    cosine_BC = unit_CF[of_B] @ unit_CF.T
    cosine_BC[:, count_C <= 0] = -2.0
    return cosine_BC.scatter_(1, of_B[:, None], -3.0)
