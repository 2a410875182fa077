"""What a user may set about label issues. Frozen, keyword-only, checked at construction; no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class IssueConfig:
    """How label issues are found.

    Attributes:
        num_neighbors: Neighbours that vote in each space.
        vote_temperature: Scale of cosine similarity over which the weight of a neighbour falls by e.
        num_folds: Parts of the cross-fitted probe; every sample is judged by a probe that has not seen it.
        shrinkages: Shares of the within-class covariance replaced by a multiple of the identity, in (0, 1]; the one
            that predicts held-out given labels best is taken.
        prune_rounds: Times that the probe is fitted again with the suspects of the round before weighed down.
        candidates: Other labels considered for a sample.
        canary_fraction: Share of the labels of a copy that is flipped on purpose, in (0, 0.5).
        canary_copies: Copies; small data gets more, to have canaries enough.
        flag_above: Issue score from which a label is flagged, in (0, 1).
        shown_neighbors: Neighbours reported for a suggestion.
        seed: Seeds the folds and the canaries.
        block_bytes: Memory of one block of similarities or likelihoods.
    """

    num_neighbors: int = 30
    vote_temperature: float = 0.05
    num_folds: int = 10
    shrinkages: tuple[float, ...] = (0.1, 0.3, 0.6)
    prune_rounds: int = 2
    candidates: int = 10
    canary_fraction: float = 0.05
    canary_copies: int = 8
    flag_above: float = 0.5
    shown_neighbors: int = 5
    seed: int = 0
    block_bytes: int = 64 * 2**20

    def __post_init__(self) -> None:
        at_least = {
            "num_neighbors": 1,
            "num_folds": 2,
            "prune_rounds": 1,
            "candidates": 1,
            "canary_copies": 1,
            "shown_neighbors": 1,
            "block_bytes": 1,
        }
        for name, least in at_least.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 < self.vote_temperature < float("inf"):
            raise ValueError(f"vote_temperature must be above 0 and finite, got {self.vote_temperature}")
        if not self.shrinkages or not all(0 < value <= 1 for value in self.shrinkages):
            raise ValueError(f"shrinkages must be one or more values in (0, 1], got {self.shrinkages}")
        if not 0 < self.canary_fraction < 0.5:
            raise ValueError(f"canary_fraction must be in (0, 0.5), got {self.canary_fraction}")
        if not 0 < self.flag_above < 1:
            raise ValueError(f"flag_above must be in (0, 1), got {self.flag_above}")
