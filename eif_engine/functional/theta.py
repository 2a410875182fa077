"""Thetas: where the head weight is moved to, to see which losses follow the confusion (DESIGN, "Theta").

    theta_max = theta_0 + r u        u = g / |g|, g = gradient of d at theta_0 (or preconditioned: `Metric`)
    theta_min = theta_0 - r u
    further   = theta_0 + r v        v random, |v| = 1, orthogonal to u and to all before

or the radius in several steps, the direction taken anew at each; or, as published, `steps` of `theta += lr * gradient`
(`-=` for the descent), stopping when `|d - d_0| >= 1`.

Every step lies in the span of the query's own rows, so a theta is `A^T x_R`, with a part outside of it only for random
directions. Queries with equally many rows are moved together. All of it is float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from eif_engine.config import Distance, FirstOrder, InfluenceConfig, PublishedSteps, UnitStep
from eif_engine.functional.confusion import query_distance, query_gradient
from eif_engine.functional.curvature import Curvature
from eif_engine.models.head import Head

PUBLISHED_STOP = 1.0
"""Published stepping ends once the distance has changed by this much."""


@dataclass(frozen=True)
class Thetas:
    """T displacements of the head weight for each of Q queries: `A^T rows + sum_j coefficient_j basis_j`.

    Attributes:
        rows_QRF: What the displacements of a query span.
        a_QTRD: The part in that span.
        coefficients_QTJ: The part along the shared random directions; J = 0 unless there are any.
        norm_QT: |theta - theta_0|, Frobenius; 0 where the distance cannot be moved.
        distance_change_QT: d(theta) - d(theta_0); at first order `|theta - theta_0| <g, u>`.
    """

    rows_QRF: Tensor
    a_QTRD: Tensor
    coefficients_QTJ: Tensor
    norm_QT: Tensor
    distance_change_QT: Tensor

    def dense(self, query: int, theta: int, basis_JDF: Tensor) -> Tensor:
        """One displacement, whole (D, F)."""
        spanned_DF: Tensor = self.a_QTRD[query, theta].T @ self.rows_QRF[query]
        random_DF: Tensor = torch.einsum("j,jdf->df", self.coefficients_QTJ[query, theta], basis_JDF)
        moved_DF: Tensor = spanned_DF + random_DF
        return moved_DF


def random_basis(head: Head, config: InfluenceConfig) -> Tensor:
    """Seeded random directions (J, D, F), orthonormal, shared by all queries: those beyond ascent and descent."""
    count = max(0, config.num_thetas - 2) if isinstance(config.step, UnitStep) else 0
    if count == 0:
        return head.weight_DF.new_zeros((0, *head.weight_DF.shape))
    generator = torch.Generator().manual_seed(config.seed)
    drawn_JX = torch.randn(count, head.weight_DF.numel(), generator=generator, dtype=torch.float64)
    q_XJ, r_JJ = torch.linalg.qr(drawn_JX.T)
    basis_JX: Tensor = (q_XJ * r_JJ.diagonal().sign()).T
    return basis_JX.reshape(count, *head.weight_DF.shape).to(head.weight_DF)


def thetas(
    head: Head, x_QRF: Tensor, config: InfluenceConfig, *, basis_JDF: Tensor, curvature: Curvature | None = None
) -> Thetas:
    """The thetas of queries with pair rows x_QRF.

    Args:
        head: At theta_0, float64.
        x_QRF: Features of the pairs of each query, float64.
        config: How far, and along what.
        basis_JDF: `random_basis` of the same head and configuration.
        curvature: The metric; None is the identity.
    """
    start = _Start.at(head, x_QRF, config.distance, curvature)
    signs = (1.0, -1.0)[: config.num_thetas]
    if isinstance(config.step, FirstOrder):
        return _first_order(start, config.step.radius)
    if isinstance(config.step, PublishedSteps):
        return start.thetas([_published(start, sign, config.step) for sign in signs])
    found = start.thetas([_unit(start, sign, config.step) for sign in signs])
    return _with_random(found, start, basis_JDF, config.step.radius) if len(basis_JDF) else found


@dataclass(frozen=True)
class _Start:
    """Queries at theta_0, and what it takes to move them within the span of their rows.

    A displacement A moves their own embeddings by `cross A`, and has the length `|A^T rows|`.
    """

    x_QRF: Tensor
    rows_QRF: Tensor
    z_QRD: Tensor
    cross_QRR: Tensor
    gram_QRR: Tensor
    distance: Distance
    curvature: Curvature | None
    value_Q: Tensor

    @classmethod
    def at(cls, head: Head, x_QRF: Tensor, distance: Distance, curvature: Curvature | None) -> _Start:
        z_QRD = x_QRF @ head.weight_DF.T + head.bias_D
        rows_QRF = x_QRF if curvature is None else curvature.precondition_features(x_QRF)
        return cls(
            x_QRF=x_QRF,
            rows_QRF=rows_QRF,
            z_QRD=z_QRD,
            cross_QRR=x_QRF @ rows_QRF.mT,
            gram_QRR=rows_QRF @ rows_QRF.mT,
            distance=distance,
            curvature=curvature,
            value_Q=query_distance(z_QRD, distance),
        )

    def moved(self, a_QRD: Tensor) -> Tensor:
        """The embeddings of the queries' own rows under a displacement."""
        return self.z_QRD + self.cross_QRR @ a_QRD

    def direction(self, z_QRD: Tensor) -> Tensor:
        """The steepest direction at these embeddings, of length 1; zero where the distance cannot be moved."""
        a_QRD = query_gradient(z_QRD, self.distance)
        if self.curvature is not None:
            a_QRD = self.curvature.precondition_gradients(a_QRD)
        length_Q = self.length(a_QRD)
        return a_QRD * (1 / length_Q).where(length_Q > 0, 0.0)[:, None, None]

    def length(self, a_QRD: Tensor) -> Tensor:
        """|A^T rows|, from the Gram matrix of the rows; rounding below zero counts as zero."""
        return (self.gram_QRR * (a_QRD @ a_QRD.mT)).sum((-2, -1)).clamp_min(0).sqrt()

    def change(self, z_QRD: Tensor) -> Tensor:
        """The distances at these embeddings, less those at theta_0."""
        return query_distance(z_QRD, self.distance) - self.value_Q

    def thetas(self, found: list[Tensor]) -> Thetas:
        a_QTRD = torch.stack(found, dim=1)
        return Thetas(
            rows_QRF=self.rows_QRF,
            a_QTRD=a_QTRD,
            coefficients_QTJ=a_QTRD.new_zeros((*a_QTRD.shape[:2], 0)),
            norm_QT=torch.stack([self.length(a_QRD) for a_QRD in found], dim=1),
            distance_change_QT=torch.stack([self.change(self.moved(a_QRD)) for a_QRD in found], dim=1),
        )


def _unit(start: _Start, sign: float, step: UnitStep) -> Tensor:
    a_QRD = torch.zeros_like(start.z_QRD)
    for _ in range(step.steps):
        a_QRD = a_QRD + (sign * step.radius / step.steps) * start.direction(start.moved(a_QRD))
    return a_QRD


def _published(start: _Start, sign: float, step: PublishedSteps) -> Tensor:
    a_QRD = torch.zeros_like(start.z_QRD)
    moving_Q = torch.ones_like(start.value_Q)
    for _ in range(step.steps):
        gradient_QRD = query_gradient(start.moved(a_QRD), start.distance)
        a_QRD = a_QRD + (sign * step.learning_rate) * moving_Q[:, None, None] * gradient_QRD
        moving_Q = moving_Q * (start.change(start.moved(a_QRD)).abs() < PUBLISHED_STOP)
        if not bool(moving_Q.any()):
            break
    return a_QRD


def _first_order(start: _Start, radius: float) -> Thetas:
    u_QRD = start.direction(start.z_QRD)
    gradient_QRD = query_gradient(start.z_QRD, start.distance)
    found = start.thetas([radius * u_QRD])
    slope_Q = (gradient_QRD * (start.cross_QRR @ u_QRD)).sum((-2, -1))
    return Thetas(found.rows_QRF, found.a_QTRD, found.coefficients_QTJ, found.norm_QT, (radius * slope_Q)[:, None])


def _with_random(found: Thetas, start: _Start, basis_JDF: Tensor, radius: float) -> Thetas:
    """Adds the random directions, made orthogonal to u and to each other.

    Gram-Schmidt over [u, basis_1, ...] from their inner products alone: with the Cholesky factor L of those, the rows
    of L^-1 are the coefficients of the orthonormal directions.
    """
    u_QRD = found.a_QTRD[:, 0] / radius
    J = len(basis_JDF)
    moved_QJRD = torch.einsum("qrf,jdf->qjrd", start.rows_QRF, basis_JDF)
    inner_QJ = torch.einsum("qrd,qjrd->qj", u_QRD, moved_QJRD)
    products_QXX = torch.eye(J + 1).to(inner_QJ).expand(len(inner_QJ), -1, -1).clone()
    products_QXX[:, 0, 1:] = products_QXX[:, 1:, 0] = inner_QJ
    eye_XX = torch.eye(J + 1).to(inner_QJ)
    inverse_QXX = torch.linalg.solve_triangular(torch.linalg.cholesky(products_QXX), eye_XX, upper=False)
    a_QJRD = radius * inverse_QXX[:, 1:, 0, None, None] * u_QRD[:, None]
    coefficients_QJJ = radius * inverse_QXX[:, 1:, 1:]
    own_QJRD = torch.einsum("qrf,jdf->qjrd", start.x_QRF, basis_JDF)
    change_QJ = torch.stack(
        [
            start.change(start.moved(a_QJRD[:, j]) + torch.einsum("qi,qird->qrd", coefficients_QJJ[:, j], own_QJRD))
            for j in range(J)
        ],
        dim=1,
    )
    known_QJ = (found.norm_QT[:, :1] > 0).to(inner_QJ).expand(-1, J)
    return Thetas(
        rows_QRF=found.rows_QRF,
        a_QTRD=torch.cat([found.a_QTRD, a_QJRD], dim=1),
        coefficients_QTJ=torch.cat([inner_QJ.new_zeros((len(inner_QJ), 2, J)), coefficients_QJJ], dim=1),
        norm_QT=torch.cat([found.norm_QT, radius * known_QJ], dim=1),
        distance_change_QT=torch.cat([found.distance_change_QT, change_QJ], dim=1),
    )
