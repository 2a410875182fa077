"""What a user may set of a counterfactual check. Frozen, keyword-only, checked at construction; no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

MAX_LEARNING_RATE = 1e30
"""Far beyond what trains anything, and still a number in single precision."""


class RetrainOptimizer(StrEnum):
    """What retrains: torch's own, with its defaults."""

    ADAM = "adam"
    SGD = "sgd"


@dataclass(frozen=True, kw_only=True)
class RetrainConfig:
    """How a model is retrained from its checkpoint. Every arm of a check sees the same batches in the same order.

    Attributes:
        epochs: Times that every training sample is seen.
        optimizer: Which.
        learning_rate: Constant.
        batch_size: Samples in a step; the loss of a step is the mean over them of weight times loss.
        seed: Decides the order of the samples.
        train_proxies: Whether the proxies (or centres) of the loss move too; else only the network does.
    """

    epochs: int = 1
    optimizer: RetrainOptimizer = RetrainOptimizer.ADAM
    learning_rate: float = 1e-3
    batch_size: int = 64
    seed: int = 0
    train_proxies: bool = True

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.learning_rate < MAX_LEARNING_RATE:
            raise ValueError(f"learning_rate must be above 0 and below {MAX_LEARNING_RATE:g}, got {self.learning_rate}")


@dataclass(frozen=True, kw_only=True)
class Reweighting:
    """What a ranking does to the weights of the samples at its two ends; all others keep weight 1.

    Attributes:
        top_k: At most this many of each end, and only samples with influence of the end's sign; None means every sample
            with influence above and below 0, as the published code does.
        harmful: Weight of samples with influence above 0; 0 as published.
        helpful: Weight of samples with influence below 0; 2 as published.
    """

    top_k: int | None = 50
    harmful: float = 0.0
    helpful: float = 2.0

    def __post_init__(self) -> None:
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}")
        for name in ("harmful", "helpful"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be a weight of at least 0, got {getattr(self, name)}")


class Action(StrEnum):
    """What is done to the samples that a ranking names."""

    REWEIGHT = "reweight"
    RELABEL = "relabel"


@dataclass(frozen=True, kw_only=True)
class ProofConfig:
    """How confusions are checked one after the other.

    Attributes:
        action: Change weights at both ends of the ranking, or give the harmful end the labels that its neighbours in
            penultimate space vote for (those that differ).
        reweighting: Which samples, and their weights.
        retrain: How the head is retrained.
        random_draws: Random changes of the same size to compare with; 0 for none.
    """

    action: Action = Action.REWEIGHT
    reweighting: Reweighting = field(default_factory=Reweighting)
    retrain: RetrainConfig = field(default_factory=RetrainConfig)
    random_draws: int = 5

    def __post_init__(self) -> None:
        if self.random_draws < 0:
            raise ValueError(f"random_draws must be at least 0, got {self.random_draws}")
