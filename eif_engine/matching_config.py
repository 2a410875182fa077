"""What a user may set about matching parts of images. Frozen, keyword-only, checked at construction; no torch."""

from __future__ import annotations

from dataclasses import dataclass

from eif_engine.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class MatchingConfig:
    """How mass flows between the parts of two images.

    Attributes:
        temperature: Weight of the entropy beside the cost 1 - cosine: towards 0 each part flows to one other, the
            larger the more it spreads.
        tolerance: The flow has converged when its marginals are off by at most this, summed over parts.
        max_iterations: After so many it is taken as it is, and the error is reported.
    """

    temperature: float = 0.05
    tolerance: float = 1e-9
    max_iterations: int = 10_000

    def __post_init__(self) -> None:
        if not 1e-4 <= self.temperature <= 1e4:
            raise InvalidInput(f"temperature must lie in [0.0001, 10000], not {self.temperature:g}")
        if not 0 < self.tolerance < 1:
            raise InvalidInput(f"tolerance must lie in (0, 1), not {self.tolerance:g}")
        if self.max_iterations < 1:
            raise InvalidInput(f"max_iterations must be at least 1, not {self.max_iterations}")
