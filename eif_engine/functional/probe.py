"""A cross-fitted linear probe: linear discriminant analysis of held-out samples, with labels that may be wrong.

Classes are Gaussians with one covariance. A sample that is given label b but shows class c has been pulled towards b
while the model learned its label, so its vector is modelled on the line between the two means:

    v | given b, shows b  ~  N(mu_b, S)
    v | given b, shows c  ~  N(mu_c + t (mu_b - mu_c), S),   t ~ N(pull mean, pull variance)

Means and S come from the folds that a sample is not in, and samples count by how far their labels are trusted. Fold
statistics are totals less the fold, so memory is O(F^2 + C F) and one more pass of the data serves any number of folds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import TypeVar

import torch
from torch import Tensor

from eif_engine.functional.draws import Draws
from eif_engine.functional.neighbors import BLOCK_BYTES, blocks
from eif_engine.functional.pieces import each_on_one_core
from eif_engine.functional.pull import Pull

Out = TypeVar("Out")

KEPT_BYTES = 2**27
"""Sums of all folds that are kept; larger ones are added up whenever they are needed."""

PRIOR_COUNT = 0.5
"""Samples' worth of the overall mean in every class mean, so that a class without other samples has one too."""


@dataclass(frozen=True)
class HeldOut:
    """Samples of a fold and the class means of the others, both whitened by the others' within-class covariance.

    Attributes:
        rows_B: Which samples.
        labels_B: Their given labels.
        a_BF: Their vectors.
        mean_CF: Class means.
        known_C: Classes that the other folds have samples of.
    """

    rows_B: Tensor
    labels_B: Tensor
    a_BF: Tensor
    mean_CF: Tensor
    known_C: Tensor

    def log_likelihood(self, pull: Pull) -> Tensor:
        """(B, C) up to a constant per row; minus infinity for other classes that are not known."""
        own_BL = self.labels_B[:, None]
        found_BC = -0.5 * self._square_BC if pull == Pull() else self._pulled(pull)
        given_BL = found_BC.gather(1, own_BL)  # for c = b the line has no length: t plays no part
        return found_BC.masked_fill_(~self.known_C, -torch.inf).scatter_(1, own_BL, given_BL)

    def position(self, classes_B: Tensor) -> tuple[Tensor, Tensor]:
        """Inner product of `v - mu_c` and `mu_b - mu_c` for a class c per sample (B,), and `|mu_b - mu_c|^2` (B,)."""
        line_BF = self.mean_CF[self.labels_B] - self.mean_CF[classes_B]
        return ((self.a_BF - self.mean_CF[classes_B]) * line_BF).sum(dim=1), line_BF.square().sum(dim=1)

    def _pulled(self, pull: Pull) -> Tensor:
        length_BC, along_BC = self._line
        along_BC = along_BC - pull.mean * length_BC
        square_BC = self._square_BC - pull.mean * (2 * along_BC + pull.mean * length_BC)
        spread_BC = 1 + pull.variance * length_BC
        square_BC.sub_(along_BC.square_().mul_(pull.variance).div_(spread_BC)).add_(spread_BC.log_())
        return square_BC.mul_(-0.5)

    @cached_property
    def _norm_C(self) -> Tensor:
        return self.mean_CF.square().sum(dim=1)

    @cached_property
    def _dot_BC(self) -> Tensor:
        return self.a_BF @ self.mean_CF.T

    @cached_property
    def _square_BC(self) -> Tensor:
        """`|v - mu_c|^2`."""
        return (self._norm_C - 2 * self._dot_BC).add_(self.a_BF.square().sum(dim=1, keepdim=True))

    @cached_property
    def _line(self) -> tuple[Tensor, Tensor]:
        """`|mu_b - mu_c|^2` and `(v - mu_c).(mu_b - mu_c)`, each (B, C)."""
        given_U, place_B = torch.unique(self.labels_B, return_inverse=True)
        dot_BC = (self.mean_CF[given_U] @ self.mean_CF.T)[place_B]  # samples of one class share a row
        along_BC = (self.a_BF * self.mean_CF[self.labels_B]).sum(dim=1, keepdim=True) + self._norm_C
        along_BC = along_BC.sub_(self._dot_BC).sub_(dot_BC)
        length_BC = dot_BC.mul_(-2).add_(self._norm_C).add_(self._norm_C[self.labels_B, None]).clamp_min_(0)
        own_BL = self.labels_B[:, None]
        return length_BC.scatter_(1, own_BL, 0.0), along_BC.scatter_(1, own_BL, 0.0)


@dataclass(frozen=True)
class _Moments:
    """Weighted sums over samples."""

    count_C: Tensor
    sum_CF: Tensor
    second_FF: Tensor

    @classmethod
    def of(cls, v_NF: Tensor, labels_N: Tensor, trust_N: Tensor, rows: Tensor, num_classes: int) -> _Moments:
        F = v_NF.shape[1]
        count_C = torch.zeros(num_classes, dtype=torch.float64, device=v_NF.device)
        sum_CF = torch.zeros(num_classes, F, dtype=torch.float64, device=v_NF.device)
        second_FF: Tensor | None = None
        for part in blocks(len(rows), F, v_NF.element_size()):
            x_BF, labels_B, trust_B = v_NF[rows[part]], labels_N[rows[part]], trust_N[rows[part]]
            weighted_BF = trust_B[:, None].to(x_BF) * x_BF
            count_C.index_add_(0, labels_B, trust_B.double())
            sum_CF += torch.zeros(num_classes, F, dtype=x_BF.dtype, device=x_BF.device).index_add_(
                0, labels_B, weighted_BF
            )
            product_FF = (weighted_BF.T @ x_BF).double()
            second_FF = product_FF if second_FF is None else second_FF.add_(product_FF)
        return cls(count_C, sum_CF, sum_CF.new_zeros(F, F) if second_FF is None else second_FF)

    def plus(self, other: _Moments) -> _Moments:
        return _Moments(self.count_C + other.count_C, self.sum_CF + other.sum_CF, self.second_FF + other.second_FF)

    def less(self, other: _Moments) -> _Moments:
        return _Moments(
            (self.count_C - other.count_C).clamp_min(0), self.sum_CF - other.sum_CF, self.second_FF - other.second_FF
        )

    def means(self) -> Tensor:
        overall_F = self.sum_CF.sum(dim=0) / self.count_C.sum().clamp_min(1e-12)
        return (self.sum_CF + PRIOR_COUNT * overall_F) / (self.count_C[:, None] + PRIOR_COUNT)

    def covariance(self, dtype: torch.dtype) -> Tensor:
        """Within classes, not shrunk; its lower triangle counts."""
        root_CF = (self.sum_CF / self.count_C.clamp_min(1e-12).sqrt()[:, None]).to(dtype)
        freedom = float((self.count_C.sum() - (self.count_C > PRIOR_COUNT).sum()).clamp_min(1))
        return self.second_FF.to(dtype).addmm_(root_CF.T, root_CF, alpha=-1).div_(freedom)


class FoldSums:
    """Weighted sums of samples by fold, from which few samples are changed at little cost.

    Args:
        total: Of all samples.
        of_fold: Of the samples of a fold.
    """

    def __init__(self, total: _Moments, of_fold: Callable[[int], _Moments]) -> None:
        self._total, self._of_fold = total, of_fold

    @classmethod
    def of(
        cls,
        v_NF: Tensor,
        labels_N: Tensor,
        trust_N: Tensor,
        num_classes: int,
        *,
        parts: Sequence[Tensor],
        threads: int = 1,
    ) -> FoldSums:
        """The sums of samples; the arguments are those of `over_folds`."""

        def moments(rows: Tensor) -> _Moments:
            return _Moments.of(v_NF, labels_N, trust_N, rows.to(v_NF.device), num_classes)

        dim = v_NF.shape[1]
        if len(parts) * (num_classes + dim) * dim * 8 > KEPT_BYTES:
            return cls(moments(torch.arange(len(v_NF))), lambda place: moments(parts[place]))
        kept = each_on_one_core(moments, parts, threads=threads)
        return cls(reduce(_Moments.plus, kept), kept.__getitem__)

    def after(self, change: Change) -> FoldSums:
        """The sums once some samples have changed."""
        return FoldSums(
            self._total.plus(change.moments(None)), lambda place: self._of_fold(place).plus(change.moments(place))
        )

    def others(self, place: int) -> _Moments:
        """Of all samples but those of a fold."""
        return self._total.less(self._of_fold(place))


@dataclass(frozen=True)
class Change:
    """Samples that have changed: what they were, which is taken off, then what they are, B each.

    Attributes:
        v_EF: Vectors, E = 2 B.
        labels_E: Labels.
        weight_E: Trust, below 0 in what is taken off.
        fold_E: The folds they are in.
        num_classes: C.
    """

    v_EF: Tensor
    labels_E: Tensor
    weight_E: Tensor
    fold_E: Tensor
    num_classes: int

    @classmethod
    def of(
        cls,
        before: tuple[Tensor, Tensor, Tensor],
        now: tuple[Tensor, Tensor, Tensor],
        fold_B: Tensor,
        *,
        num_classes: int,
    ) -> Change:
        """From vectors, labels and trust before and now."""
        v_EF, labels_E, _ = (torch.cat(pair) for pair in zip(before, now, strict=True))
        return cls(v_EF, labels_E, torch.cat((-before[2], now[2])), torch.cat((fold_B, fold_B)), num_classes)

    def moments(self, place: int | None) -> _Moments:
        """What is added to the sums of a fold, or of all."""
        rows = torch.arange(len(self.fold_E), device=self.v_EF.device)
        told = rows if place is None else rows[self.fold_E == place]
        return _Moments.of(self.v_EF, self.labels_E, self.weight_E, told, self.num_classes)


def shrink(covariance_FF: Tensor, shrinkage: float) -> Tensor:
    """Replace a share of a covariance by the multiple of the identity with the same trace."""
    scale = covariance_FF.diagonal().mean().clamp_min(1e-12)
    shrunk_FF = (1 - shrinkage) * covariance_FF
    shrunk_FF.diagonal().add_(shrinkage * scale)
    return shrunk_FF


def folds(draws: Draws, num_folds: int) -> list[Tensor]:
    """Rows of each fold, drawn once; sizes differ by one at most, and few samples change folds when others come."""
    order = draws.uniform().argsort(stable=True)
    return [part.sort().values for part in torch.tensor_split(order, min(num_folds, len(order)))]


def over_folds(
    work: Callable[[Iterator[HeldOut]], Out],
    v_NF: Tensor,
    labels_N: Tensor,
    trust_N: Tensor,
    num_classes: int,
    *,
    parts: list[Tensor],
    shrinkage: float,
    judged_N: Tensor | None = None,
    sums: FoldSums | None = None,
    block_bytes: int = BLOCK_BYTES,
    threads: int = 1,
) -> list[Out]:
    """What `work` makes of each fold, whose samples are judged by the folds they are not in.

    Args:
        work: Called with the samples of a fold, in blocks of at most `block_bytes` per (B, C) matrix.
        v_NF: Vectors.
        labels_N: Given labels in [0, num_classes).
        trust_N: Weights in [0, 1]: how far a label is trusted.
        num_classes: C.
        parts: Rows of each fold, as `folds` makes them.
        shrinkage: Of the within-class covariance, in (0, 1].
        judged_N: Samples that are judged; None means all.
        sums: Of these samples, where they are known already.
        block_bytes: Memory of a block.
        threads: Folds at a time, each on one core; what comes out does not depend on it.
    """
    if sums is None:
        sums = FoldSums.of(v_NF, labels_N, trust_N, num_classes, parts=parts, threads=threads)

    def held_out(place: int) -> Iterator[HeldOut]:
        fold, others = parts[place].to(v_NF.device), sums.others(place)
        # Sums are float64, what is said of a sample has the precision of its vector.
        factor_FF = torch.linalg.cholesky(shrink(others.covariance(v_NF.dtype), shrinkage))
        mean_CF = _whiten(others.means().to(v_NF), factor_FF)
        known_C = others.count_C > PRIOR_COUNT
        asked = fold if judged_N is None else fold[judged_N[fold]]
        for block in blocks(len(asked), max(num_classes, v_NF.shape[1]), v_NF.element_size(), block_bytes):
            rows_B = asked[block]
            yield HeldOut(rows_B, labels_N[rows_B], _whiten(v_NF[rows_B], factor_FF), mean_CF, known_C)

    return each_on_one_core(lambda place: work(held_out(place)), range(len(parts)), threads=threads)


def _whiten(v_AF: Tensor, factor_FF: Tensor) -> Tensor:
    white_AF: Tensor = torch.linalg.solve_triangular(factor_FF, v_AF.T, upper=False).T
    return white_AF
