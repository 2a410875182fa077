"""Which method ranks the training samples, and the settings of the baselines. Frozen, keyword-only; no torch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Method(StrEnum):
    """How training samples are scored. Scores above 0 are harmful, for each of them.

    EIF is the empirical influence function. The three influence functions give `grad d^T H^-1 grad L` with another H^-1
    each: the published recursion, conjugate gradient, and EK-FAC. LOSS and GRADIENT_NORM know nothing of the query.
    """

    EIF = "eif"
    PUBLISHED_IF = "published_if"
    IF_CG = "if_cg"
    IF_EKFAC = "if_ekfac"
    LOSS = "loss"
    GRADIENT_NORM = "gradient_norm"


class Fisher(StrEnum):
    """What EK-FAC is fitted to.

    SAMPLED draws labels from the model's own softmax; EXACT takes the expectation over all classes, at the cost of one
    backward pass for each.
    """

    SAMPLED = "sampled"
    EXACT = "exact"


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """Settings of the baselines.

    Attributes:
        recursion_scale: What the published recursion divides Hessians by, and its result.
        recursion_damping: What it takes off its estimate at each sample.
        damping: Added to the curvature's diagonal, in shares of its mean eigenvalue (IF_CG and IF_EKFAC).
        tolerance: Norm of the residual, relative to the gradient's, at which conjugate gradient stops.
        max_iterations: Of conjugate gradient, after which it gives up.
        fisher: What EK-FAC is fitted to.
        label_samples: Labels drawn for each sample, where they are drawn.
        seed: Seeds them.
    """

    recursion_scale: float = 500.0
    recursion_damping: float = 0.01
    damping: float = 0.1
    tolerance: float = 1e-2
    max_iterations: int = 500
    fisher: Fisher = Fisher.SAMPLED
    label_samples: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("recursion_scale", "damping"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be above 0 and finite, got {getattr(self, name)}")
        if not 0 <= self.recursion_damping < 1:
            raise ValueError(f"recursion_damping must be in [0, 1), got {self.recursion_damping}")
        if not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance must be between 0 and 1, got {self.tolerance}")
        for name in ("max_iterations", "label_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
