"""Kronecker-factored curvature of the loss in the head weight (Martens and Grosse, ICML 2015).

    curvature of L in W  ~  A (x) G      A = mean x x^T (F, F),  G = mean (dL/dz) (dL/dz)^T (D, D)

so the preconditioned gradient of a distance, `G^-1 (dd/dW) A^-1`, keeps the rank of the gradient: with dd/dW = a^T x it
is `(a G^-1)^T (x A^-1)`. Damping is factored as there: with t_A, t_G the mean eigenvalues and c the damping, A gets
`sqrt(c) t_A` and G gets `sqrt(c) t_G` on the diagonal, which adds about c times the mean eigenvalue to the product.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Curvature:
    """Damped factors.

    Attributes:
        a_FF: Second moment of the features, damped.
        g_DD: Second moment of the gradients of the loss in the embeddings, damped.
    """

    a_FF: Tensor
    g_DD: Tensor

    def precondition_features(self, x_XF: Tensor) -> Tensor:
        """`x A^-1` (..., F)."""
        return _solved(self.a_FF, x_XF)

    def precondition_gradients(self, a_XD: Tensor) -> Tensor:
        """`a G^-1` (..., D)."""
        return _solved(self.g_DD, a_XD)


def damped(a_FF: Tensor, g_DD: Tensor, damping: float) -> Curvature:
    """The factors with their damping; a factor that is zero throughout becomes the identity."""
    return Curvature(_damped(a_FF, damping), _damped(g_DD, damping))


def _solved(factor_YY: Tensor, x_XY: Tensor) -> Tensor:
    solved_YX: Tensor = torch.linalg.solve(factor_YY, x_XY.flatten(0, -2).T)
    return solved_YX.T.reshape(x_XY.shape)


def _damped(factor_XX: Tensor, damping: float) -> Tensor:
    mean = factor_XX.diagonal().mean()
    eye_XX = torch.eye(len(factor_XX)).to(factor_XX)
    return factor_XX + damping**0.5 * mean * eye_XX if mean > 0 else eye_XX
