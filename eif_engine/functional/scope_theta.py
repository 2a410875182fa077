"""Thetas of any scope, by gradients through the whole network (the equations are those of theta.py).

    theta_max = theta_0 + r g / |g|,  theta_min = theta_0 - r g / |g|,  further = theta_0 + r v with random v

with |.| over all chosen parameters together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eif_engine.config import Distance, InfluenceConfig, PublishedSteps, UnitStep
from eif_engine.functional.confusion import query_distance
from eif_engine.functional.scope import Scope
from eif_engine.functional.theta import PUBLISHED_STOP


@dataclass(frozen=True)
class ScopeTheta:
    """A displacement of the chosen parameters.

    Attributes:
        displacement_X: theta - theta_0.
        norm: Its length.
        distance_change: d(theta) - d(theta_0); at first order `<grad d, theta - theta_0>`.
    """

    displacement_X: Tensor
    norm: float
    distance_change: float


@dataclass(frozen=True)
class QueryDistance:
    """The distance of a query as a function of theta.

    Attributes:
        scope: The network.
        images: Portions of the query's pairs: images (2g, ...) of g samples, then of their g neighbours.
        distance: Of a pair.
    """

    scope: Scope
    images: Sequence[Tensor]
    distance: Distance

    def value(self, theta_X: Tensor) -> float:
        """d: the mean over all pairs."""
        with torch.no_grad():
            return float(sum(self._shares(theta_X)))

    def gradient(self, theta_X: Tensor) -> Tensor:
        """Of d in theta (X,)."""
        gradient_X = torch.zeros_like(theta_X)
        with torch.enable_grad():
            leaf_X = theta_X.detach().clone().requires_grad_()
            for share in self._shares(leaf_X):
                if share.grad_fn is not None:  # there is none when the embedding uses none of the chosen parameters
                    gradient_X += torch.autograd.grad(share, leaf_X)[0]
        return gradient_X

    def _shares(self, theta_X: Tensor) -> Iterator[Tensor]:
        rows = sum(len(portion) for portion in self.images)
        for portion in self.images:
            z_RD = self.scope.embed(theta_X, portion)
            yield query_distance(z_RD, self.distance) * (len(portion) / rows)


def scope_thetas(query: QueryDistance, config: InfluenceConfig) -> list[ScopeTheta]:
    """The thetas of a query; at first order the one along the gradient. Empty when the distance cannot be moved."""
    theta_X = query.scope.theta_X
    g_X = query.gradient(theta_X)
    length = float(g_X.norm())
    if length == 0:
        return []
    u_X, signs = g_X / length, (1.0, -1.0)[: config.num_thetas]
    if isinstance(config.step, PublishedSteps):
        return [_theta(query, _published(query, sign, config.step)) for sign in signs]
    if not isinstance(config.step, UnitStep):
        return [ScopeTheta(config.step.radius * u_X, config.step.radius, config.step.radius * length)]
    found = [_unit(query, sign, u_X, config.step) for sign in signs]
    found += [config.step.radius * v_X for v_X in _random(u_X, config)]
    return [_theta(query, displacement_X) for displacement_X in found]


def _theta(query: QueryDistance, displacement_X: Tensor) -> ScopeTheta:
    start_X = query.scope.theta_X
    change = query.value(start_X + displacement_X) - query.value(start_X)
    return ScopeTheta(displacement_X, float(displacement_X.norm()), change)


def _unit(query: QueryDistance, sign: float, u_X: Tensor, step: UnitStep) -> Tensor:
    length = sign * step.radius / step.steps
    displacement_X = length * u_X
    for _ in range(step.steps - 1):
        g_X = query.gradient(query.scope.theta_X + displacement_X)
        norm = float(g_X.norm())
        displacement_X = displacement_X + (length / norm if norm > 0 else 0.0) * g_X
    return displacement_X


def _published(query: QueryDistance, sign: float, step: PublishedSteps) -> Tensor:
    start_X = query.scope.theta_X
    value, displacement_X = query.value(start_X), torch.zeros_like(start_X)
    for _ in range(step.steps):
        g_X = query.gradient(start_X + displacement_X)
        displacement_X = displacement_X + sign * step.learning_rate * g_X
        if abs(query.value(start_X + displacement_X) - value) >= PUBLISHED_STOP:
            break
    return displacement_X


def _random(u_X: Tensor, config: InfluenceConfig) -> list[Tensor]:
    """Seeded random directions, made orthogonal to u and to each other (Gram-Schmidt)."""
    count = max(0, config.num_thetas - 2)
    generator = torch.Generator().manual_seed(config.seed)
    drawn_JX = torch.randn(count, len(u_X), generator=generator, dtype=torch.float64) if count else u_X.new_zeros(0, 1)
    basis = [u_X]
    for drawn_X in drawn_JX:
        v_X = drawn_X.to(u_X)
        for before_X in basis:
            v_X = v_X - (v_X @ before_X) * before_X
        basis.append(v_X / v_X.norm())
    return basis[1:]
