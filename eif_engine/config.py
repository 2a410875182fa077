"""What a user may set. Frozen, keyword-only, checked at construction; no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Distance(StrEnum):
    """Distance of a pair, on L2-normalised embeddings."""

    SQUARED_EUCLIDEAN = "squared_euclidean"
    EUCLIDEAN = "euclidean"
    COSINE = "cosine"


class QueryKind(StrEnum):
    """What a query is made of."""

    CONFUSION_PAIRS = "confusion"
    MIS_SIMILAR_PAIRS = "mis_similar"
    CONFUSION_GROUPS = "group"


class NeighborSpace(StrEnum):
    """Where neighbours are looked for; vectors of both are L2-normalised."""

    EMBEDDING = "embedding"
    PENULTIMATE = "penultimate"


class VoteRule(StrEnum):
    """How neighbours vote for a label (relabel, algorithm 1)."""

    SOFT = "soft"
    HARD = "hard"


class Metric(StrEnum):
    """In which metric of the head weight the steepest direction is taken.

    IDENTITY is the gradient, as published. KFAC is the gradient preconditioned by the Kronecker factors of the loss's
    curvature, `G^-1 (dd/dW) A^-1`: the way in which the distance moves most for the least change of the losses.
    """

    IDENTITY = "identity"
    KFAC = "kfac"


@dataclass(frozen=True, kw_only=True)
class UnitStep:
    """Steps of `radius` in all (Frobenius norms of changes of the head weight) along the steepest direction.

    Attributes:
        radius: Length of the step; with several, the sum of their lengths.
        steps: The direction is taken anew at each.
    """

    radius: float = 1.0
    steps: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.radius < float("inf"):
            raise ValueError(f"radius must be above 0 and finite, got {self.radius}")
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")


@dataclass(frozen=True, kw_only=True)
class FirstOrder:
    """The limit of a short unit step, scaled to `radius`: `radius <grad d, u> <u, grad L>`, u the unit direction.

    No loss is computed anew, so it costs a few matrix products for all queries together: for screening.
    """

    radius: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.radius < float("inf"):
            raise ValueError(f"radius must be above 0 and finite, got {self.radius}")


@dataclass(frozen=True, kw_only=True)
class PublishedSteps:
    """Plain gradient steps as the published code takes them, stopping once the distance has changed by 1."""

    steps: int = 50
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate must be above 0 and finite, got {self.learning_rate}")


@dataclass(frozen=True, kw_only=True)
class InfluenceConfig:
    """How influence is computed (eq. 6).

    Attributes:
        step: How theta is moved from theta_0. Short steps, newly aimed, held up best when models were retrained
            (docs/decisions/theta-steps.md).
        num_thetas: 1 is the ascent, 2 adds the descent, more add random directions orthogonal to all before
            (single unit step only). Without meaning at first order.
        normalize: Divide by |theta - theta_0| as eq. 6 does; the published code does not.
        distance: Distance of a pair.
        seed: Seeds the random directions.
        metric: In which metric the direction is steepest (not for published steps, which are plain).
        damping: Of the curvature, in shares of its mean eigenvalue; only for the KFAC metric.
    """

    step: UnitStep | PublishedSteps | FirstOrder = field(default_factory=lambda: UnitStep(radius=0.2, steps=20))
    num_thetas: int = 2
    normalize: bool = True
    distance: Distance = Distance.SQUARED_EUCLIDEAN
    seed: int = 0
    metric: Metric = Metric.IDENTITY
    damping: float = 10.0

    def __post_init__(self) -> None:
        if self.num_thetas < 1:
            raise ValueError(f"num_thetas must be at least 1, got {self.num_thetas}")
        if self.num_thetas > 2 and not (isinstance(self.step, UnitStep) and self.step.steps == 1):
            raise ValueError(
                "more than 2 thetas need a single unit step (a radius): random directions have no other way"
            )
        if self.metric is not Metric.IDENTITY and isinstance(self.step, PublishedSteps):
            raise ValueError("published steps are plain gradient steps: they have no metric")
        if not 0 < self.damping < float("inf"):
            raise ValueError(f"damping must be above 0 and finite, got {self.damping}")


@dataclass(frozen=True, kw_only=True)
class RelabelConfig:
    """How labels are suggested (algorithm 1).

    Attributes:
        num_neighbors: Neighbours that vote; None means the median number of samples in a class.
        vote: How they vote.
    """

    num_neighbors: int | None = None
    vote: VoteRule = VoteRule.SOFT

    def __post_init__(self) -> None:
        if self.num_neighbors is not None and self.num_neighbors < 1:
            raise ValueError(f"num_neighbors must be at least 1, got {self.num_neighbors}")
