"""Losses that see an embedding only through its cosines to fixed unit representatives.

When theta moves, every cosine changes by a known delta, so the loss there needs no second pass. What influence is made
of is a *difference* of losses, often a tiny one: it is computed from the deltas, never as one loss less another, which
keeps the relative accuracy of the dtype and lets float32 serve.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from eif_engine.losses.base import ProxyLoss

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

    def change(self, delta_BP: Tensor) -> Tensor:
        """`L(cos + delta) - L(cos)` (B,), without cancellation."""
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

        L(cos + delta) - L(cos) = log(1 + sum_(c is not y) p_c expm1(scale (delta_c - delta_y)))

    Args:
        logits_BC: At theta_0; overwritten.
        labels_B: Class indices y.
        scale: dlogit/dcos.
    """

    def __init__(self, logits_BC: Tensor, labels_B: Tensor, scale: float) -> None:
        self._label_B1, self._scale = labels_B[:, None], scale
        self._log_p_BC = logits_BC.sub_(logits_BC.logsumexp(1, keepdim=True))
        self.base_B = -self._log_p_BC.gather(1, self._label_B1)[:, 0]
        # The label's own term is zero. Stored as zero, rounding cannot make it larger than those that count.
        self._p_BC = self._log_p_BC.exp().scatter_(1, self._label_B1, 0.0)
        self._buffer_BC = torch.empty_like(self._p_BC)

    def slope(self) -> Tensor:
        """dL/dcos (B, C) at theta_0."""
        slope_BC = self._scale * self._p_BC
        return slope_BC.scatter(1, self._label_B1, -slope_BC.sum(1, keepdim=True))

    def change(self, delta_BC: Tensor) -> Tensor:
        """`L(cos + delta) - L(cos)` (B,) for changes of the cosines, or of what stands for them."""
        label_B = delta_BC.gather(1, self._label_B1)[:, 0].mul_(-self._scale)
        raised_BC = torch.add(label_B[:, None], delta_BC, alpha=self._scale, out=self._buffer_BC)
        moved_B: Tensor = torch.linalg.vecdot(self._p_BC, raised_BC.expm1_())
        far_B = ~((moved_B > _LEAST_SHARE - 1) & (moved_B < _MOST_SHARE))
        change_B = moved_B.log1p_()
        if bool(far_B.any()):
            far_BC = torch.add(label_B[far_B, None], delta_BC[far_B], alpha=self._scale)
            change_B[far_B] = torch.logsumexp(far_BC.add_(self._log_p_BC[far_B]), 1)
        return change_B
