"""Losses that see an embedding only through its cosines to fixed unit representatives.

When theta moves, every cosine changes by a known delta, so the loss there needs no second pass. What influence is made
of is a *difference* of losses, often a tiny one: it is computed from the deltas, never as one loss less another, which
keeps the relative accuracy of the dtype and lets float32 serve.
"""

from __future__ import annotations

from functools import cached_property
from math import inf
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from eif_engine.losses.base import ProxyLoss

_SHORT = 3.0
"""Exponents up to which changes are worked out by `tanh`: without cancellation, but at more cost than by `exp`."""
_LEAST_CHANGE = 1 / 1024
"""Of a sum of exponentials, relative: a smaller one has lost ten bits to cancellation, and is worked out anew."""
_LONG = 40.0
"""Exponents from which on a product of a probability and an exponential may lose what counts to underflow."""
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

    def change(self, delta_TBP: Tensor) -> Tensor:
        """`L(cos + delta) - L(cos)` (T, B) at T thetas, without cancellation. May overwrite delta_TBP.

        What comes out for a theta must not depend on which others come with it.
        """
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
        label_B = logits_BC.gather(1, self._label_B1)[:, 0]
        most_B = logits_BC.amax(1)
        # The label's own term is left out, not taken off again: what the others have may be next to nothing beside it.
        raised_BC = (logits_BC - most_B[:, None]).exp_().scatter_(1, self._label_B1, 0.0)
        others_B = raised_BC.sum(1)
        total_B = others_B + (label_B - most_B).exp_()
        log_total_B = total_B.log().add_(most_B)
        self._others_B = others_B / total_B
        self.base_B = torch.where(self._others_B < 0.5, -torch.log1p(-self._others_B), log_total_B - label_B)
        # Not -inf for the label: `exp` would leave its fast path.
        nothing = _next_to_nothing(logits_BC.dtype)
        self._log_others_BC = logits_BC.sub_(log_total_B[:, None]).scatter_(1, self._label_B1, nothing)

    @cached_property
    def _others_BC(self) -> Tensor:
        """Probabilities at theta_0, but the label's own."""
        return self._log_others_BC.exp()

    def slope(self) -> Tensor:
        """dL/dcos (B, C) at theta_0."""
        slope_BC = self._scale * self._log_others_BC.exp()
        return slope_BC.scatter_(1, self._label_B1, -slope_BC.sum(1, keepdim=True))

    def change(self, delta_TBC: Tensor) -> Tensor:
        """`L(cos + delta) - L(cos)` (T, B) for changes of the cosines, or of what stands for them."""
        index_TBI = self._label_B1.expand(len(delta_TBC), -1, -1)
        label_TB = delta_TBC.gather(2, index_TBI)[..., 0].mul_(self._scale)
        # Decided for each theta on its own, so that scores do not depend on which thetas come together.
        short_T = (delta_TBC.amax((1, 2)) - delta_TBC.amin((1, 2))) * self._scale < _SHORT
        if bool(short_T.all()):
            return self._short_change(delta_TBC, label_TB)
        if not bool(short_T.any()):
            return self._mixed_change(delta_TBC, label_TB)
        change_TB = torch.empty_like(label_TB)
        change_TB[short_T] = self._short_change(delta_TBC[short_T], label_TB[short_T])
        change_TB[~short_T] = self._mixed_change(delta_TBC[~short_T], label_TB[~short_T])
        return change_TB

    def _short_change(self, delta_TBC: Tensor, label_TB: Tensor) -> Tensor:
        """Changes where all exponents are below `_SHORT`: `exp(x) - 1 = 2 t / (1 - t)`, t = tanh(x / 2)."""
        half_TBC = torch.add((-0.5 * label_TB)[..., None], delta_TBC, alpha=0.5 * self._scale, out=delta_TBC)
        tanh_TBC = half_TBC.tanh()
        ratio_TBC = tanh_TBC.div_(torch.sub(1, tanh_TBC, out=delta_TBC))
        # Not a product of matrices: what comes out for a theta would depend on how many come with it.
        return ratio_TBC.mul_(self._others_BC).sum(2).mul_(2).log1p_()

    def _mixed_change(self, delta_TBC: Tensor, label_TB: Tensor) -> Tensor:
        """Changes from sums of exponentials; those that have lost digits in them are worked out anew."""
        sum_TB = torch.add(self._log_others_BC, delta_TBC, alpha=self._scale).exp_().sum(2)
        moved_TB = sum_TB.mul_(label_TB.neg().exp_()).sub_(self._others_B)
        sure_TB = (moved_TB.abs() > _LEAST_CHANGE * self._others_B) & fits(moved_TB) & (label_TB.abs() < _LONG)
        change_TB = moved_TB.log1p_()
        if not bool(sure_TB.all()):
            t, b = (~sure_TB).nonzero(as_tuple=True)
            raised_XC = (self._scale * delta_TBC[t, b]).sub_(label_TB[t, b][:, None])
            change_TB[t, b] = self._long_change(raised_XC, b)
        return change_TB

    def _long_change(self, raised_XC: Tensor, b: Tensor) -> Tensor:
        """Changes of the samples b from any exponents, without cancellation."""
        log_others_XC = self._log_others_BC[b]
        moved_X = torch.linalg.vecdot(log_others_XC.exp(), torch.expm1(raised_XC))
        far_X = ~fits(moved_X) | (raised_XC.amax(1) > _LONG)
        change_X: Tensor = moved_X.log1p_()
        if bool(far_X.any()):
            raised_XC += log_others_XC.scatter_(1, self._label_B1[b], -inf)
            change_X = torch.where(far_X, torch.logaddexp(raised_XC.logsumexp(1), -self.base_B[b]), change_X)
        return change_X


def _next_to_nothing(dtype: torch.dtype) -> float:
    """The logarithm of a number that is lost in any sum, and far from the denormal ones, which are slow."""
    return -60.0 if dtype == torch.float32 else -500.0


def fits(moved_X: Tensor) -> Tensor:
    """Where `log1p` of it is accurate; false for NaN."""
    return (moved_X > _LEAST_SHARE - 1) & (moved_X < _MOST_SHARE)
