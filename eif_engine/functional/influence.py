"""Empirical influence (eq. 6) of a tile of samples on a group of queries.

    I(x, P) = mean over theta of  (d(P; theta) - d(P; theta_0)) (L(x; theta) - L(x; theta_0)) / |theta - theta_0|

I > 0 is harmful: moving the model so that the pair comes apart makes the loss of x grow, and bringing it together makes
it fall, so learning x holds the confusion in place. It is the product, not the quotient.

Nothing passes through the network again. A theta moves the embedding of x by `K A`, with K the products of its features
with the rows of the query. For losses of cosines that is all it takes, with p the unit representatives and n = |z|:

    n'^2 - n^2 = 2 K (z A^T) + |K A|^2          n' - n = (n'^2 - n^2) / (n' + n)
    cos' - cos = (K A p^T - cos (n' - n)) / n'

No line subtracts two numbers that are nearly equal, so that float32 keeps its digits however short the step is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from eif_engine.functional.theta import Thetas
from eif_engine.losses.base import ProxyLoss
from eif_engine.losses.cosine import CosineLoss, CosineState
from eif_engine.models.head import Head

LEAST_NORM = 1e-12
"""Of an embedding: what `torch.nn.functional.normalize` divides by at least."""


@dataclass(frozen=True)
class Group:
    """Queries that are scored together, and what does not depend on the samples.

    Attributes:
        rows_GRF: The rows that their displacements span.
        a_GTRD: The displacements in that span.
        cosine_GTRP: `a p^T` for losses of cosines; None for others, and for queries that span more than the embedding.
        square_GTRR: `a a^T`, with it.
        coefficients_GTJ: The parts along the random directions.
        weight_GT: What the change of the loss at a theta counts: `distance change / (T |theta - theta_0|)`.
    """

    rows_GRF: Tensor
    a_GTRD: Tensor
    cosine_GTRP: Tensor | None
    square_GTRR: Tensor | None
    coefficients_GTJ: Tensor
    weight_GT: Tensor

    @classmethod
    def of(cls, found: Thetas, representatives_PD: Tensor | None, *, normalize: bool, to: Tensor) -> Group:
        """The queries of `found`, with the device and the dtype of `to`."""
        length_QT = found.norm_QT if normalize else torch.ones_like(found.norm_QT)
        weight_QT = (found.distance_change_QT / length_QT).where(found.norm_QT > 0, 0.0) / found.norm_QT.shape[1]
        a_GTRD = found.a_QTRD.to(to)
        narrow = a_GTRD.shape[2] <= a_GTRD.shape[3] and found.coefficients_QTJ.shape[2] == 0
        fast = representatives_PD is not None and narrow
        return cls(
            rows_GRF=found.rows_QRF.to(to),
            a_GTRD=a_GTRD,
            cosine_GTRP=a_GTRD @ representatives_PD.T if representatives_PD is not None and narrow else None,
            square_GTRR=a_GTRD @ a_GTRD.mT if fast else None,
            coefficients_GTJ=found.coefficients_QTJ.to(to),
            weight_GT=weight_QT.to(to),
        )


class Tile:
    """A tile of B samples at theta_0.

    Args:
        head: The head.
        loss: The loss the model was trained with, on the same device and in the same precision.
        x_BF: Features.
        labels_B: Class indices.
        representatives_PD: Those of a loss of cosines; None takes the way of other losses.
        basis_JDF: The random directions of the thetas.
        slice_rows: Samples whose losses are worked on at a time.
        work_elements: Cosines that are worked on at a time, at as many thetas as that takes: they should fit into the
            cache of a core.
    """

    def __init__(
        self,
        head: Head,
        loss: ProxyLoss,
        x_BF: Tensor,
        labels_B: Tensor,
        *,
        representatives_PD: Tensor | None,
        basis_JDF: Tensor,
        slice_rows: int,
        work_elements: int,
    ) -> None:
        self._work_elements = work_elements
        self._x_BF, self._labels_B, self._loss = x_BF, labels_B, loss
        self._z_BD = head.embed(x_BF)
        self._norm_B = torch.linalg.vector_norm(self._z_BD, dim=1).clamp_min_(LEAST_NORM)
        self._random_JBD = x_BF @ basis_JDF.mT
        self._slices: list[_Slice] = []
        self._base_B = torch.empty(0)
        self._unit_PD = torch.empty(0) if representatives_PD is None else representatives_PD
        if representatives_PD is not None:
            cosine_loss = cast(CosineLoss, loss)
            cosine_BP = (self._z_BD / self._norm_B[:, None]) @ representatives_PD.T
            self._slices = [
                _Slice.at(cosine_loss, cosine_BP, labels_B, slice(start, start + slice_rows))
                for start in range(0, len(x_BF), slice_rows)
            ]
        else:
            self._base_B = loss.per_sample(self._z_BD, labels_B)

    def scores(self, group: Group) -> Tensor:
        """Influence (G, B), eq. 6."""
        K_GBR = _products(self._x_BF, group.rows_GRF)
        if group.cosine_GTRP is None or group.square_GTRR is None:
            change_GTB = self._wide(K_GBR, group)
        else:
            change_GTB = self._narrow(K_GBR, group, group.cosine_GTRP, group.square_GTRR)
        return (group.weight_GT[..., None] * change_GTB).sum(1)

    def first_order(self, group: Group, slope_BD: Tensor) -> Tensor:
        """Influence (G, B) at first order, given `slopes()`."""
        moved_GBR = _products(slope_BD, group.a_GTRD[:, 0])
        moved_GB: Tensor = torch.linalg.vecdot(_products(self._x_BF, group.rows_GRF), moved_GBR)
        return moved_GB.mul_(group.weight_GT)

    def slopes(self) -> Tensor:
        """dL/dz (B, D) at theta_0."""
        if not self._slices:
            return _gradient(self._loss, self._z_BD, self._labels_B)
        zn_BD = self._z_BD / self._norm_B[:, None]
        slope_BD = torch.empty_like(zn_BD)
        for part in self._slices:
            slope_SP = part.state.slope()
            along_S = torch.linalg.vecdot(slope_SP, part.cosine_SP)
            slope_BD[part.rows] = slope_SP @ self._unit_PD - along_S[:, None] * zn_BD[part.rows]
        return slope_BD.div_(self._norm_B[:, None])

    def _narrow(self, K_GBR: Tensor, group: Group, cosine_GTRP: Tensor, square_GTRR: Tensor) -> Tensor:
        """Changes of the losses (G, T, B)."""
        z_GTBR = (self._z_BD @ group.a_GTRD.flatten(0, 2).T).view(-1, *group.a_GTRD.shape[:3]).permute(1, 2, 0, 3)
        K_GTBR = K_GBR[:, None]
        moved_GTB = torch.linalg.vecdot(K_GTBR @ square_GTRR, K_GTBR)
        norm_GTB, fall_GTB = self._moved_norm(2 * torch.linalg.vecdot(z_GTBR, K_GTBR) + moved_GTB)
        change_GTB = torch.zeros_like(norm_GTB)
        moving_M = group.weight_GT.flatten().nonzero()[:, 0]
        scaled_MBR = (K_GTBR / norm_GTB[..., None]).flatten(0, 1)[moving_M]
        cosine_MRP, fall_MB = cosine_GTRP.flatten(0, 1)[moving_M], -fall_GTB.flatten(0, 1)[moving_M]
        for part in self._slices:
            rows = part.rows
            some = max(1, self._work_elements // part.cosine_SP.numel())
            for first in range(0, len(moving_M), some):
                those = slice(first, first + some)
                delta_MSP = torch.bmm(scaled_MBR[those, rows], cosine_MRP[those])
                delta_MSP.addcmul_(part.cosine_SP, fall_MB[those, rows, None])
                change_GTB.flatten(0, 1)[moving_M[those], rows] = part.state.change(delta_MSP)
        return change_GTB

    def _wide(self, K_GBR: Tensor, group: Group) -> Tensor:
        """Changes of the losses (G, T, B) by way of the embeddings: for other losses, many pairs, random directions."""
        change_GTB = K_GBR.new_zeros(*group.weight_GT.shape, len(self._z_BD))
        for g, t in group.weight_GT.nonzero().tolist():
            moved_BD = K_GBR[g] @ group.a_GTRD[g, t]
            if len(self._random_JBD):
                moved_BD += torch.einsum("j,jbd->bd", group.coefficients_GTJ[g, t], self._random_JBD)
            change_GTB[g, t] = self._change(moved_BD)
        return change_GTB

    def _change(self, moved_BD: Tensor) -> Tensor:
        """Change of the losses (B,) when the embeddings move by this much."""
        if not self._slices:
            return self._loss.per_sample(self._z_BD + moved_BD, self._labels_B) - self._base_B
        norm_B, fall_B = self._moved_norm(torch.linalg.vecdot(2 * self._z_BD + moved_BD, moved_BD))
        scaled_BD = moved_BD / norm_B[:, None]
        changes = []
        for part in self._slices:
            delta_SP = scaled_BD[part.rows] @ self._unit_PD.T
            delta_SP.addcmul_(part.cosine_SP, fall_B[part.rows, None], value=-1)
            changes.append(part.state.change(delta_SP[None])[0])
        return torch.cat(changes)

    def _moved_norm(self, square_XB: Tensor) -> tuple[Tensor, Tensor]:
        """The norm n' and (n' - n) / n', from n'^2 - n^2."""
        norm_XB = (self._norm_B.square() + square_XB).clamp_min_(0).sqrt_().clamp_min_(LEAST_NORM)
        return norm_XB, square_XB / (norm_XB + self._norm_B) / norm_XB


@dataclass(frozen=True)
class _Slice:
    """Some samples of a tile: their rows, cosines and losses."""

    rows: slice
    cosine_SP: Tensor
    state: CosineState

    @classmethod
    def at(cls, loss: CosineLoss, cosine_BP: Tensor, labels_B: Tensor, rows: slice) -> _Slice:
        return cls(rows, cosine_BP[rows], loss.at(cosine_BP[rows].clone(), labels_B[rows]))


def _products(x_BX: Tensor, rows_GRX: Tensor) -> Tensor:
    """`x rows^T` (G, B, R), by one matrix product."""
    G, R, _ = rows_GRX.shape
    return (x_BX @ rows_GRX.flatten(0, 1).T).view(-1, G, R).transpose(0, 1).contiguous()


def _gradient(loss: ProxyLoss, z_BD: Tensor, labels_B: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf_BD = z_BD.detach().requires_grad_()
        (slope_BD,) = torch.autograd.grad(loss.per_sample(leaf_BD, labels_B).sum(), leaf_BD)
    return slope_BD
