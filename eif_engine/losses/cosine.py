"""Losses that see an embedding only through its cosines to fixed unit representatives.

When theta moves, every cosine changes by a known delta, so the loss there needs no second pass. What influence is made
of is a *difference* of losses, often a tiny one: it is computed from the deltas, never as one loss less another, which
keeps the relative accuracy of the dtype and lets float32 serve.
"""

from __future__ import annotations

from math import inf, log
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from eif_engine.losses.base import ProxyLoss

_SHORT = 0.03
"""Exponents up to which every row is worked out by `expm1`, which costs several times what `exp` does."""
_LEAST_CHANGE = 1 / 64
"""Of a sum of exponentials, relative: a smaller one has lost six bits to cancellation, and is worked out by `expm1`."""
_LEAST_SHARE = 0.05
"""Of `1 + m` where `log1p(m)` is still accurate; below, digits cancel."""
_MOST_SHARE = 1e30
"""Of `1 + m`, far from the end of float32."""


class CosineState(Protocol):
    """The losses of B samples as functions of their cosines, at theta_0."""

    @property
    def base_B(self) -> Tensor:
        """Losses at theta_0."""
        ...

    def slope(self) -> Tensor:
        """dL/dcos (B, P) at theta_0."""
        ...

    def change(self, delta_TBP: Tensor, *, reach: float = inf) -> Tensor:
        """`L(cos + delta) - L(cos)` (T, B) at T thetas, without cancellation; no delta is larger than `reach`."""
        ...


@runtime_checkable
class CosineLoss(ProxyLoss, Protocol):
    """A loss of the cosines to P unit representatives: one a class, or K a class side by side (P = C K)."""

    @property
    def representatives_PD(self) -> Tensor:
        """Unit rows."""
        ...

    def at(self, cosine_BP: Tensor, labels_B: Tensor) -> CosineState:
        """The losses near these cosines. May keep or overwrite cosine_BP."""
        ...


class SoftmaxState:
    """Cross-entropy of logits that are `scale * cos` plus constants, with p their softmax at theta_0.

        L(cos + delta) - L(cos) = log(1 + m),   m = sum_(c is not y) p_c (exp(scale (delta_c - delta_y)) - 1)

    Args:
        logits_BC: At theta_0; overwritten.
        labels_B: Class indices y.
        scale: dlogit/dcos.
    """

    def __init__(self, logits_BC: Tensor, labels_B: Tensor, scale: float) -> None:
        self._label_B1, self._scale = labels_B[:, None], scale
        self._log_p_BC = logits_BC.sub_(logits_BC.logsumexp(1, keepdim=True))
        self.base_B = -self._log_p_BC.gather(1, self._label_B1)[:, 0]
        # The label's own term is zero, and stored as next to nothing: rounding cannot make it larger than those that
        # count. Not as -inf, which makes `exp` leave its fast path.
        self._log_others_BC = self._log_p_BC.scatter(1, self._label_B1, _next_to_nothing(logits_BC.dtype))
        self._others_B = self._log_others_BC.exp().sum(1)

    def slope(self) -> Tensor:
        """dL/dcos (B, C) at theta_0."""
        slope_BC = self._scale * self._log_others_BC.exp()
        return slope_BC.scatter_(1, self._label_B1, -slope_BC.sum(1, keepdim=True))

    def change(self, delta_TBC: Tensor, *, reach: float = inf) -> Tensor:
        """`L(cos + delta) - L(cos)` (T, B) for changes of the cosines, or of what stands for them."""
        index_TBI = self._label_B1.expand(len(delta_TBC), -1, -1)
        label_TB = delta_TBC.gather(2, index_TBI)[..., 0].mul_(self._scale)
        if 2 * reach * self._scale < _SHORT:
            raised_TBC = (self._scale * delta_TBC).sub_(label_TB[..., None])
            return self._careful(raised_TBC, self._log_others_BC, self._log_p_BC)
        sum_TB = torch.add(self._log_others_BC, delta_TBC, alpha=self._scale).exp_().sum(2)
        moved_TB = sum_TB.mul_(label_TB.neg().exp_()).sub_(self._others_B)
        sure_TB = (moved_TB.abs() > _LEAST_CHANGE * self._others_B) & _fits(moved_TB)
        change_TB = moved_TB.log1p_()
        if not bool(sure_TB.all()):
            t, b = (~sure_TB).nonzero(as_tuple=True)
            raised_XC = (self._scale * delta_TBC[t, b]).sub_(label_TB[t, b][:, None])
            change_TB[t, b] = self._careful(raised_XC, self._log_others_BC[b], self._log_p_BC[b])
        return change_TB

    def _careful(self, raised_XC: Tensor, log_others_XC: Tensor, log_p_XC: Tensor) -> Tensor:
        """Changes from `scale (delta_c - delta_y)`, by functions that cancel nowhere and cost several times as much."""
        moved_X = torch.linalg.vecdot(log_others_XC.exp(), torch.expm1(raised_XC))
        far_X = ~_fits(moved_X)
        change_X: Tensor = moved_X.log1p_()
        if bool(far_X.any()):
            far_XC = raised_XC + log_p_XC
            change_X = torch.where(far_X, torch.logsumexp(far_XC, -1), change_X)
        return change_X


def _next_to_nothing(dtype: torch.dtype) -> float:
    """The logarithm of a number that is lost in any sum, but is no denormal one."""
    return 0.9 * log(torch.finfo(dtype).tiny)


def _fits(moved_X: Tensor) -> Tensor:
    """Where `log1p` of it is accurate; false for NaN."""
    return (moved_X > _LEAST_SHARE - 1) & (moved_X < _MOST_SHARE)
