"""Influence functions by curvlinops: the inverse Gauss-Newton matrix of the mean loss in the head weight.

    H = 1/N sum_n J_n^T (diag p_n - p_n p_n^T) J_n  +  c I        J_n = dlogits_n / dW,  p_n their softmax

EK-FAC approximates its first part in the eigenbasis of Kronecker factors (George et al., NeurIPS 2018; for influence:
Grosse et al., 2023) and is inverted there. Conjugate gradient solves with H itself, with EK-FAC as its preconditioner.
c is `damping` times the mean eigenvalue that EK-FAC finds, the same for both.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from eif_engine.baselines.softmax_logits import softmax_logits
from eif_engine.baselines.training_set import TrainingSet
from eif_engine.errors import InvalidInput
from eif_engine.losses.base import ProxyLoss
from eif_engine.method_config import Fisher, MethodConfig

BLOCK_ROWS = 1024
"""Samples of a batch. Labels are drawn batch by batch, so it is part of what a seed means."""
_ROUNDS = 3
_EXACT_ELEMENTS = 1 << 25
"""Entries of the softmax Hessians (B, C, C) of a batch, at most, where they are formed."""

Inverse = Callable[[Tensor], Tensor]
"""v_QDF to `H^-1 v` (Q, D, F)."""


def ekfac_inverse(data: TrainingSet, config: MethodConfig) -> Inverse:
    """Products with the inverse of EK-FAC.

    Raises:
        InvalidInput: The loss is not a cross-entropy over classes.
    """
    inverse = _Problem.of(data, config).ekfac_inverse
    return lambda v_QDF: _rows(inverse @ _columns(v_QDF), v_QDF)


def cg_inverse(data: TrainingSet, config: MethodConfig) -> Inverse:
    """Products with the inverse of H by conjugate gradient, all vectors together.

    Raises:
        InvalidInput: The loss is not a cross-entropy over classes; later, when called, that it does not converge.
    """
    problem = _Problem.of(data, config)
    return lambda v_QDF: _rows(_solve(problem, _columns(v_QDF), config), v_QDF)


def mean_eigenvalue(data: TrainingSet, config: MethodConfig) -> float:
    """Of the curvature before damping, as EK-FAC finds it; with the exact Fisher, that of the Gauss-Newton matrix."""
    return _Problem.of(data, config).mean_eigenvalue


class SoftmaxHead(nn.Module):
    """A head and the logits of its loss; the weight is its only parameter with a gradient.

    Its input is a mapping with `features` and `labels`, as margins need labels.
    """

    def __init__(self, data: TrainingSet) -> None:
        super().__init__()
        weight_DF, bias_D = data.head.weight_DF, data.head.bias_D
        self.linear = nn.Linear(weight_DF.shape[1], weight_DF.shape[0], device="meta")
        self.linear.weight = nn.Parameter(weight_DF.clone())
        self.linear.bias = nn.Parameter(bias_D.clone(), requires_grad=False)
        self._loss: ProxyLoss = data.loss

    def forward(self, samples: dict[str, Tensor]) -> Tensor:
        """Logits (B, C)."""
        return softmax_logits(self._loss, self.linear(samples["features"]), samples["labels"])


@dataclass(frozen=True)
class _Batches:
    """The samples as curvlinops reads them, again and again."""

    data: TrainingSet
    rows: int

    def __iter__(self) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        for _, x_BF, labels_B in self.data.samples(self.rows):
            yield {"features": x_BF, "labels": labels_B}, labels_B


@dataclass(frozen=True)
class _Problem:
    """What both inverses share."""

    gauss_newton: Any
    ekfac_inverse: Any
    mean_eigenvalue: float
    damping: float

    @classmethod
    def of(cls, data: TrainingSet, config: MethodConfig) -> _Problem:
        library, model = _curvlinops(), SoftmaxHead(data)
        exact = config.fisher is Fisher.EXACT
        rows = max(1, min(BLOCK_ROWS, _EXACT_ELEMENTS // data.loss.num_classes**2)) if exact else BLOCK_ROWS
        common = _common(len(data))
        weight, loss = [model.linear.weight], nn.CrossEntropyLoss()
        with torch.enable_grad():
            ekfac = library.EKFACLinearOperator(
                model,
                loss,
                weight,
                _Batches(data, rows),
                seed=config.seed,
                fisher_type="type-2" if exact else "mc",
                mc_samples=1 if exact else config.label_samples,
                num_per_example_loss_terms=1,
                **common,
            )
            mean = float(ekfac.trace) / model.linear.weight.numel()
        # Without any curvature H is c I, and every c gives the same order.
        damping = config.damping * mean if mean > 0 else config.damping
        inverse = library.KFACInverseLinearOperator(ekfac, damping=damping, use_exact_damping=True)
        gauss_newton = library.GGNLinearOperator(model, loss, weight, _Batches(data, BLOCK_ROWS), **common)
        return cls(gauss_newton, inverse, mean, damping)


def _solve(problem: _Problem, v_XQ: Tensor, config: MethodConfig) -> Tensor:
    """Conjugate gradient. It stops when the mean residual is small, so vectors that are left behind go round again."""
    damped = _damped(problem, v_XQ)
    inverse = _curvlinops().CGInverseLinearOperator(
        damped,
        tolerance=config.tolerance,
        stop_updating_after=config.tolerance,
        eps=torch.finfo(v_XQ.dtype).tiny,
        max_iter=config.max_iterations,
        max_tridiag_iter=0,
        preconditioner=problem.ekfac_inverse.__matmul__,
    )
    found_XQ, left_XQ, norm_Q = torch.zeros_like(v_XQ), v_XQ, v_XQ.norm(dim=0)
    for _ in range(_ROUNDS):
        behind_Q = left_XQ.norm(dim=0) > config.tolerance * norm_Q
        if not bool(behind_Q.any()):
            return found_XQ
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the mean is not small yet: found out here, for each vector
            found_XQ[:, behind_Q] += inverse @ left_XQ[:, behind_Q].contiguous()
        left_XQ = v_XQ - damped @ found_XQ
    worst = float((left_XQ.norm(dim=0) / norm_Q).where(norm_Q > 0, 0.0).max())
    if worst <= config.tolerance:
        return found_XQ
    raise InvalidInput(
        f"conjugate gradient has not converged after {_ROUNDS} times {config.max_iterations} iterations: the residual "
        f"is {worst:.2g} of the gradient, not {config.tolerance:g}; raise damping, tolerance or max_iterations",
        field="max_iterations",
    )


def _damped(problem: _Problem, like_XQ: Tensor) -> Any:  # noqa: ANN401 - the library is untyped
    from curvlinops.examples import IdentityLinearOperator

    shape = problem.gauss_newton._in_shape  # noqa: SLF001 - the library has no other way to ask
    return problem.gauss_newton + problem.damping * IdentityLinearOperator(shape, like_XQ.device, like_XQ.dtype)


def _columns(v_QDF: Tensor) -> Tensor:
    return v_QDF.flatten(1).T.contiguous()


def _rows(h_XQ: Tensor, like_QDF: Tensor) -> Tensor:
    return h_XQ.T.reshape(like_QDF.shape)


def _curvlinops() -> ModuleType:
    """The library, whose import warns of what its dependencies use of torch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return import_module("curvlinops")


def _common(samples: int) -> dict[str, Any]:
    return {
        "check_deterministic": False,  # it is, and asking costs two passes
        "num_data": samples,
        "batch_size_fn": lambda batch: len(batch["labels"]),
    }
