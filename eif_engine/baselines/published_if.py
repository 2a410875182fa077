"""The influence function as the published baseline estimates it: a recursion over the training set, once, in order.

    h <- v + (1 - damping) h - H_n h / scale     for n = 1 .. N,  from h = v = grad d
    H^-1 v  ~  h / scale

with H_n the Hessian of the loss of sample n in the head weight. Its product with h has rank one, `(M_n h x_n) x_n^T`
with M_n the Hessian in the embedding, so within a block of samples everything can be said in the D-vectors
`a_n = M_n h x_n`. With k = 1 - damping, and h_0 the estimate before the block,

    a_n = M_n (k^n h_0 x_n + (1 + k + .. + k^(n-1)) v x_n - sum_(m<n) k^(n-1-m) <x_m, x_n> a_m / scale)

which is the same recursion, exactly, with its large products (h_0 x_n, v x_n and the update of h) done once a block.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from eif_engine.baselines.training_set import Block, TrainingSet
from eif_engine.errors import InvalidInput
from eif_engine.losses.base import ProxyLoss

_BLOCK_ROWS = 64
_FORMED_ROWS = 16
"""Samples whose Hessians are formed together: few enough for their derivatives to stay in a core's cache."""
_VECTORS_EACH = 8
"""Applying a Hessian to D / 8 vectors costs about as much as forming it: derivatives of one sample batch badly."""

HessianProduct = Callable[[Tensor, int], Tensor]
"""u_QD and a row b of the block, to `M_b u_q`; called for one row after the other."""


def recursion(data: TrainingSet, v_QDF: Tensor, *, scale: float, damping: float) -> Tensor:
    """`H^-1 v` (Q, D, F) by the published recursion over all samples in order.

    Args:
        data: The training samples; their order matters.
        v_QDF: Gradients of the distances.
        scale: Divides the Hessians and the result; must be large enough for `I - H_n / scale` to shrink.
        damping: In [0, 1).

    Raises:
        InvalidInput: The recursion diverges.
    """
    hessians = formed_hessians if len(v_QDF) * _VECTORS_EACH > v_QDF.shape[1] else hessian_products
    h_QDF = v_QDF.clone()
    for _, block in data.blocks(_BLOCK_ROWS):
        _advance(h_QDF, v_QDF, block, product=hessians(data.loss, block), scale=scale, keep=1 - damping)
    if not bool(torch.isfinite(h_QDF).all()):
        raise InvalidInput(
            f"the published recursion diverges with scale {scale:g}: its Hessians are larger; raise recursion_scale",
            field="recursion_scale",
        )
    return h_QDF.div_(scale)


def hessian_products(loss: ProxyLoss, block: Block) -> HessianProduct:
    """Products with the Hessians of the losses in the embeddings, each by differentiating a gradient once more."""

    def apply(u_QD: Tensor, row: int) -> Tensor:
        g_QD, z_QD = _gradients(loss, block.z_BD[row].expand_as(u_QD), block.labels_B[row].expand(len(u_QD)))
        (product_QD,) = torch.autograd.grad(g_QD, z_QD, u_QD)
        return product_QD

    return apply


def formed_hessians(loss: ProxyLoss, block: Block) -> HessianProduct:
    """The same from the Hessians themselves, which are formed for some samples at a time, as they are needed."""
    D = block.z_BD.shape[1]
    eye_DD = torch.eye(D, dtype=block.z_BD.dtype, device=block.z_BD.device)
    held: dict[int, Tensor] = {}

    def apply(u_QD: Tensor, row: int) -> Tensor:
        if row not in held:
            rows = slice(row, row + _FORMED_ROWS)
            g_BD, z_BD = _gradients(loss, block.z_BD[rows], block.labels_B[rows])
            eye_DBD = eye_DD[:, None].expand(D, *z_BD.shape)
            (hessian_DBD,) = torch.autograd.grad(g_BD, z_BD, eye_DBD, is_grads_batched=True)
            held.clear()
            held.update(enumerate(hessian_DBD.transpose(0, 1).contiguous(), start=row))
        return u_QD @ held[row]

    return apply


def _gradients(loss: ProxyLoss, z_BD: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
    """dL/dz (B, D), with the graph to differentiate it, and the z it is a function of."""
    with torch.enable_grad():
        leaf_BD = z_BD.detach().clone().requires_grad_()
        (g_BD,) = torch.autograd.grad(loss.per_sample(leaf_BD, labels_B).sum(), leaf_BD, create_graph=True)
    return g_BD, leaf_BD


def _advance(h_QDF: Tensor, v_QDF: Tensor, block: Block, *, product: HessianProduct, scale: float, keep: float) -> None:
    """Take the estimate h past the samples of a block, in place."""
    x_BF = block.x_BF
    B = len(x_BF)
    power_B = keep ** torch.arange(B + 1, dtype=x_BF.dtype, device=x_BF.device)
    sum_B = power_B.cumsum(0) - power_B  # 1 + k + .. + k^(n-1)
    base_QBD = power_B[:B, None] * (x_BF @ h_QDF.mT) + sum_B[:B, None] * (x_BF @ v_QDF.mT)
    products_BB = x_BF @ x_BF.T / scale
    a_QBD = torch.empty_like(base_QBD)
    for n in range(B):
        lag_n = power_B[:n].flip(0) * products_BB[n, :n]
        a_QBD[:, n] = product(base_QBD[:, n] - lag_n @ a_QBD[:, :n], n)
    weighted_QDB = (a_QBD * (power_B[:B].flip(0) / scale)[:, None]).mT
    h_QDF.mul_(power_B[B]).add_(v_QDF, alpha=float(sum_B[B])).sub_(weighted_QDB @ x_BF)
