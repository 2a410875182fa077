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

from eif_engine.config import Distance, InfluenceConfig, PublishedSteps, UnitStep
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
    start = _Start.at(head, x_RF, config.distance)
    length = start.length(start.gradient_RD)
    if length == 0:
        return []
    signs = (1.0, -1.0)[: config.num_thetas]
    if isinstance(config.step, PublishedSteps):
        return [_published(start, sign, config.step) for sign in signs]
    unit_RD = start.gradient_RD / length
    steps = [_unit(start, sign * unit_RD, config.step) for sign in signs]
    return steps + _random(head, start, unit_RD, config)


@dataclass(frozen=True)
class _Start:
    """A query at theta_0, and what it takes to move it within the span of its rows."""

    x_RF: Tensor
    z_RD: Tensor
    gram_RR: Tensor
    distance: Distance
    value: Tensor
    gradient_RD: Tensor

    @classmethod
    def at(cls, head: Head, x_RF: Tensor, distance: Distance) -> _Start:
        z_RD = head.embed(x_RF)
        value, gradient_RD = query_gradient(z_RD, distance)
        return cls(x_RF, z_RD, x_RF @ x_RF.T, distance, value, gradient_RD)

    def length(self, a_RD: Tensor) -> float:
        """|A^T x_R|, from the Gram matrix of the rows; rounding below zero counts as zero."""
        return float((self.gram_RR * (a_RD @ a_RD.T)).sum().clamp_min(0).sqrt())

    def change(self, z_RD: Tensor) -> float:
        """The distance at these embeddings, less that at theta_0."""
        return float(query_distance(z_RD, self.distance) - self.value)


def _unit(start: _Start, direction_RD: Tensor, step: UnitStep) -> Theta:
    a_RD = step.radius * direction_RD
    return Theta(a_RD, None, step.radius, start.change(start.z_RD + start.gram_RR @ a_RD))


def _published(start: _Start, sign: float, step: PublishedSteps) -> Theta:
    a_RD, z_RD, change = torch.zeros_like(start.z_RD), start.z_RD, 0.0
    for _ in range(step.steps):
        _, gradient_RD = query_gradient(z_RD, start.distance)
        a_RD = a_RD + (sign * step.learning_rate) * gradient_RD
        z_RD = start.z_RD + start.gram_RR @ a_RD
        change = start.change(z_RD)
        if abs(change) >= PUBLISHED_STOP:
            break
    return Theta(a_RD, None, start.length(a_RD), change)


def _random(head: Head, start: _Start, unit_RD: Tensor, config: InfluenceConfig) -> list[Theta]:
    """Seeded random directions, made orthogonal to the gradient and to each other (Gram-Schmidt)."""
    if not isinstance(config.step, UnitStep) or config.num_thetas <= 2:
        return []
    generator = torch.Generator().manual_seed(config.seed)
    basis = [unit_RD.T @ start.x_RF]
    found: list[Theta] = []
    for _ in range(config.num_thetas - 2):
        drawn = torch.randn(head.weight_DF.shape, generator=generator, dtype=torch.float64)
        direction_DF = drawn.to(head.weight_DF.device, head.weight_DF.dtype)
        for before_DF in basis:
            direction_DF = direction_DF - (direction_DF * before_DF).sum() * before_DF
        basis.append(direction_DF / direction_DF.norm())
        dense_DF = config.step.radius * basis[-1]
        change = start.change(start.z_RD + start.x_RF @ dense_DF.T)
        found.append(Theta(torch.zeros_like(start.z_RD), dense_DF, config.step.radius, change))
    return found
