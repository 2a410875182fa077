"""Slow float64 definitions of influence functions on a head: dense matrices, one sample after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from tests.oracles import unit
from tests.toy import Toy


class LossOf(Protocol):
    """Whole head weight as a vector, and a row of the training set, to its loss."""

    def __call__(self, weight_X: Tensor, row: int) -> Tensor: ...


def logits(data: Toy, name: str, weight_X: Tensor, row: int) -> Tensor:
    """Of one sample under a head weight, so that the loss is their cross-entropy; from the equations of the papers."""
    D, F = data.head.weight_DF.shape
    zn = unit(weight_X.reshape(D, F) @ data.train_NF[row] + data.head.bias_D)
    if name == "proxy_nca":
        scale = data.proxy_nca.scale
        return torch.stack([-((scale * zn - scale * unit(proxy)) ** 2).sum() for proxy in data.proxy_nca.proxies_CD])
    loss, similarities = data.soft_triple, []
    for label, centers_KD in enumerate(data.soft_triple.centers_CKD):
        cosines = torch.stack([zn @ unit(center) for center in centers_KD])
        similarity = (torch.softmax(cosines / loss.gamma, 0) * cosines).sum()
        similarities.append(loss.lambda_ * (similarity - loss.margin * (label == int(data.train_labels_N[row]))))
    return torch.stack(similarities)


def loss_of(data: Toy, name: str) -> LossOf:
    def one(weight_X: Tensor, row: int) -> Tensor:
        return -torch.log_softmax(logits(data, name, weight_X, row), 0)[int(data.train_labels_N[row])]

    return one


def loss_gradients(data: Toy, name: str) -> Tensor:
    """Of every sample in the head weight (N, D F)."""
    loss, start_X = loss_of(data, name), data.head.weight_DF.reshape(-1)
    return torch.stack([_derivative(partial(loss, row=n), start_X) for n in range(len(data.train_NF))])


def published_recursion(data: Toy, name: str, v_XQ: Tensor, *, scale: float, damping: float) -> Tensor:
    """`H^-1 v` with every Hessian whole: h <- v + (1 - damping) h - H h / scale, at last h / scale."""
    loss, start_X, h_XQ = loss_of(data, name), data.head.weight_DF.reshape(-1), v_XQ.clone()
    for n in range(len(data.train_NF)):
        gradient = partial(_derivative, partial(loss, row=n), graph=True)
        hessian_XX = _derivative(gradient, start_X)
        h_XQ = v_XQ + (1 - damping) * h_XQ - hessian_XX @ h_XQ / scale
    return h_XQ / scale


def gauss_newton(data: Toy, name: str) -> Tensor:
    """Mean over the samples of J^T (diag p - p p^T) J (D F, D F)."""
    start_X = data.head.weight_DF.reshape(-1)
    total_XX = torch.zeros(len(start_X), len(start_X), dtype=torch.float64)
    for n in range(len(data.train_NF)):
        jacobian_CX, p_C = _jacobian(data, name, n)
        total_XX += jacobian_CX.T @ (torch.diag(p_C) - torch.outer(p_C, p_C)) @ jacobian_CX
    return total_XX / len(data.train_NF)


def ekfac(data: Toy, name: str) -> Tensor:
    """The exact-Fisher EK-FAC of the Gauss-Newton matrix (D F, D F).

    In the basis of the eigenvectors of A = mean x x^T and G = mean E_y (dL/dz)(dL/dz)^T, a diagonal matrix with the
    second moments there of the gradients, whose labels y are drawn by the model.
    """
    D, F = data.head.weight_DF.shape
    gradients: list[list[tuple[float, Tensor]]] = []
    a_FF, g_DD = torch.zeros(F, F, dtype=torch.float64), torch.zeros(D, D, dtype=torch.float64)
    N = len(data.train_NF)
    for n in range(N):
        jacobian_CX, p_C = _jacobian(data, name, n)
        drawn = [(float(p_C[y]), ((p_C - torch.eye(len(p_C))[y]) @ jacobian_CX).reshape(D, F)) for y in range(len(p_C))]
        gradients.append(drawn)
        x_F = data.train_NF[n]
        a_FF += torch.outer(x_F, x_F) / N
        for p, gradient_DF in drawn:
            g_D = gradient_DF @ x_F / (x_F @ x_F)
            g_DD += p * torch.outer(g_D, g_D) / N
    basis_XX = torch.kron(torch.linalg.eigh(g_DD)[1], torch.linalg.eigh(a_FF)[1])
    moments_X = torch.zeros(D * F, dtype=torch.float64)
    for drawn in gradients:
        for p, gradient_DF in drawn:
            moments_X += p * (basis_XX.T @ gradient_DF.reshape(-1)) ** 2 / N
    return basis_XX @ torch.diag(moments_X) @ basis_XX.T


def damped_solve(matrix_XX: Tensor, vectors: Sequence[Tensor], damping: float) -> list[Tensor]:
    """`(M + damping mean-eigenvalue I)^-1 v` for each v."""
    c = damping * float(matrix_XX.diagonal().mean())
    return [torch.linalg.solve(matrix_XX + c * torch.eye(len(matrix_XX), dtype=torch.float64), v) for v in vectors]


def _jacobian(data: Toy, name: str, row: int) -> tuple[Tensor, Tensor]:
    start_X = data.head.weight_DF.reshape(-1)
    jacobian_CX = _derivative(lambda w: logits(data, name, w, row), start_X)
    return jacobian_CX, torch.softmax(logits(data, name, start_X, row), 0)


def _derivative(function: Callable[[Tensor], Tensor], at_X: Tensor, *, graph: bool = False) -> Tensor:
    """Of each of its values (..., X)."""
    found: Tensor = torch.autograd.functional.jacobian(  # type: ignore[no-untyped-call]  # torch leaves it untyped
        function, at_X, create_graph=graph
    )
    return found
