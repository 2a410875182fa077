"""Thetas: where the head weight is moved to, to see which losses follow the confusion (DESIGN, "Theta").

    theta_max = theta_0 + r g / |g|      g = gradient of d at theta_0
    theta_min = theta_0 - r g / |g|
    further   = theta_0 + r u            u random, |u| = 1, orthogonal to g and to all before

or, as published, `steps` of `theta += lr * gradient` (`-=` for the descent), stopping when `|d - d_0| >= 1`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from eif_engine.config import InfluenceConfig, PublishedSteps, UnitStep
from eif_engine.functional.confusion import query_distance, query_gradient
from eif_engine.models.head import Head

PUBLISHED_STOP = 1.0
"""Published stepping ends once the distance has changed by this much."""


@dataclass(frozen=True)
class Theta:
    """A displacement of the head weight, `A^T x_R` plus a dense part where there is one.

    Attributes:
        a_RD: The part in the span of the query's rows.
        dense_DF: The part outside of it; None except for random directions.
        norm: |theta - theta_0|, the Frobenius norm of the displacement.
        distance_change: d(theta) - d(theta_0).
    """

    a_RD: Tensor
    dense_DF: Tensor | None
    norm: float
    distance_change: float

    def displace(self, x_NF: Tensor, gram_NR: Tensor) -> Tensor:
        """Change of the embeddings (N, D) of features x_NF, where `gram_NR = x_NF @ x_RF.T`."""
        change_ND = gram_NR @ self.a_RD
        return change_ND if self.dense_DF is None else torch.addmm(change_ND, x_NF, self.dense_DF.T)


def thetas(head: Head, x_RF: Tensor, config: InfluenceConfig) -> list[Theta]:
    """The thetas of a query with pair rows x_RF. Empty when the gradient is zero: the distance then cannot be moved."""
    z_RD, gram_RR = head.embed(x_RF), x_RF @ x_RF.T
    value, a_RD = query_gradient(z_RD, config.distance)
    length = _length(a_RD, gram_RR)
    if length == 0:
        return []
    signs = (1.0, -1.0)[: config.num_thetas]
    if isinstance(config.step, PublishedSteps):
        return [_published(z_RD, gram_RR, value, sign, config.step, config) for sign in signs]
    steps = [_unit(z_RD, gram_RR, value, a_RD * (sign / length), config.step, config) for sign in signs]
    return steps + _random(head, x_RF, z_RD, value, a_RD / length, config.step, config)


def _length(a_RD: Tensor, gram_RR: Tensor) -> float:
    """|A^T x_R|, from the Gram matrix of the rows; rounding below zero counts as zero."""
    return float((gram_RR * (a_RD @ a_RD.T)).sum().clamp_min(0).sqrt())


def _unit(
    z_RD: Tensor, gram_RR: Tensor, value: Tensor, direction_RD: Tensor, step: UnitStep, config: InfluenceConfig
) -> Theta:
    a_RD = step.radius * direction_RD
    moved = query_distance(z_RD + gram_RR @ a_RD, config.distance)
    return Theta(a_RD, None, step.radius, float(moved - value))


def _published(
    z_RD: Tensor, gram_RR: Tensor, value: Tensor, sign: float, step: PublishedSteps, config: InfluenceConfig
) -> Theta:
    a_RD, moved = torch.zeros_like(z_RD), value
    for _ in range(step.steps):
        _, gradient_RD = query_gradient(z_RD + gram_RR @ a_RD, config.distance)
        a_RD = a_RD + (sign * step.learning_rate) * gradient_RD
        moved = query_distance(z_RD + gram_RR @ a_RD, config.distance)
        if abs(float(moved - value)) >= PUBLISHED_STOP:
            break
    return Theta(a_RD, None, _length(a_RD, gram_RR), float(moved - value))


def _random(
    head: Head, x_RF: Tensor, z_RD: Tensor, value: Tensor, unit_RD: Tensor, step: UnitStep, config: InfluenceConfig
) -> list[Theta]:
    """Seeded random directions, made orthogonal to the gradient and to each other (Gram-Schmidt)."""
    generator = torch.Generator().manual_seed(config.seed)
    basis = [unit_RD.T @ x_RF]
    found: list[Theta] = []
    for _ in range(config.num_thetas - 2):
        drawn = torch.randn(head.weight_DF.shape, generator=generator, dtype=torch.float64)
        direction_DF = drawn.to(head.weight_DF.device, head.weight_DF.dtype)
        for before_DF in basis:
            direction_DF = direction_DF - (direction_DF * before_DF).sum() * before_DF
        direction_DF = direction_DF / direction_DF.norm()
        basis.append(direction_DF)
        dense_DF = step.radius * direction_DF
        moved = query_distance(z_RD + x_RF @ dense_DF.T, config.distance)
        found.append(Theta(torch.zeros_like(z_RD), dense_DF, step.radius, float(moved - value)))
    return found
