"""Entropic optimal transport by Sinkhorn's iteration in the log domain (Cuturi, NeurIPS 2013).

    U, V  the two sets between which mass flows; any leading dimensions are a batch (written as `...`)

Minimises `<flow, cost> - temperature * entropy(flow)` over flows with the given marginals. In the log domain nothing
under- or overflows, whatever the temperature, and places without mass are exact: their logarithm is minus infinity.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Transport:
    """A flow between two sets.

    Attributes:
        flow_UV: Mass from u to v (..., U, V), non-negative; its columns sum to the second marginal to rounding.
        error: Largest over the batch of `sum_u |sum_v flow - first marginal|`.
        iterations: Of both updates.
        converged: Whether `error` is within the tolerance.
    """

    flow_UV: Tensor
    error: float
    iterations: int
    converged: bool


def sinkhorn(
    cost_UV: Tensor,
    mass_U: Tensor,
    mass_V: Tensor,
    *,
    temperature: float,
    tolerance: float = 1e-9,
    max_iterations: int = 10_000,
) -> Transport:
    """The entropic optimal flow.

    Args:
        cost_UV: Cost of moving a unit (..., U, V).
        mass_U: First marginal (..., U), non-negative, sum 1.
        mass_V: Second marginal (..., V), non-negative, sum 1.
        temperature: Weight of the entropy, above 0.
        tolerance: Largest `error` at which to stop; below the precision of the dtype it is never reached.
        max_iterations: At least 1.
    """
    score_UV = -cost_UV / temperature
    log_U, log_V = mass_U.log(), mass_V.log()
    potential_V = torch.zeros_like(mass_V)
    reach_U = torch.logsumexp(score_UV, dim=-1)
    error, iterations = float("inf"), 0
    while iterations < max_iterations and error > tolerance:
        potential_U = log_U - reach_U
        potential_V = log_V - torch.logsumexp(score_UV + potential_U[..., :, None], dim=-2)
        reach_U = torch.logsumexp(score_UV + potential_V[..., None, :], dim=-1)
        error = float(((potential_U + reach_U).exp() - mass_U).abs().sum(dim=-1).max())
        iterations += 1
    flow_UV = (potential_U[..., :, None] + score_UV + potential_V[..., None, :]).exp()
    return Transport(flow_UV, error, iterations, error <= tolerance)
