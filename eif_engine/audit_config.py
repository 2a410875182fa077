"""What a user may set of an audit. Frozen, keyword-only, checked at construction; no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from eif_engine.config import InfluenceConfig
from eif_engine.counterfactual_config import RetrainConfig
from eif_engine.issue_config import IssueConfig


@dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """How a model and its data are audited.

    Attributes:
        recall_at: The k of recall@k; 1 is always there.
        influence: How influence is computed.
        exact_elements: Up to so many losses (confusion classes times training samples times classes) influence is
            computed as `influence` says; beyond, to first order with its radius, which the audit tells.
        top_k: Training samples kept per confusion class from each end of its ranking.
        issues: How label issues are found.
        screen_above: Probability that a test label is wrong from which its confusions blame no training sample.
        near_duplicate: Cosine of penultimate features from which two samples are nearly the same, in (0, 1].
        outlier_neighbors: k of the distance to the k-th neighbour.
        outlier_ratio: That distance over its median, from which a sample is an outlier; above 1.
        same_identity: Overlap of two class centres from which they may be one identity, in (0, 1].
        review_budgets: Shares of the training samples for which the canaries tell precision and recall.
        proofs: Confusion classes that the proof retrains for; 0 leaves the proof out.
        proof_draws: Random changes of the same size that it is compared with.
        retrain: How the head is retrained.
        memory_bytes: What scores and their making may take.
        seed: Of everything that is random.
    """

    recall_at: tuple[int, ...] = (1, 2, 4, 8)
    influence: InfluenceConfig = field(default_factory=InfluenceConfig)
    exact_elements: int = 10_000_000_000
    top_k: int = 50
    issues: IssueConfig = field(default_factory=IssueConfig)
    screen_above: float = 0.5
    near_duplicate: float = 0.99
    outlier_neighbors: int = 5
    outlier_ratio: float = 3.0
    same_identity: float = 0.5
    review_budgets: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1, 0.2)
    proofs: int = 3
    proof_draws: int = 3
    retrain: RetrainConfig = field(default_factory=RetrainConfig)
    memory_bytes: int = 1 << 30
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("exact_elements", "top_k", "outlier_neighbors", "proof_draws"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.proofs < 0:
            raise ValueError(f"proofs must be at least 0, got {self.proofs}")
        for name in ("screen_above", "near_duplicate", "same_identity"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in (0, 1], got {getattr(self, name)}")
        if not 1 < self.outlier_ratio < float("inf"):
            raise ValueError(f"outlier_ratio must be above 1 and finite, got {self.outlier_ratio}")
        if not self.recall_at or any(k < 1 for k in self.recall_at):
            raise ValueError(f"recall_at must be one or more numbers of at least 1, got {self.recall_at}")
        if not all(0 < share <= 1 for share in self.review_budgets):
            raise ValueError(f"review_budgets must lie in (0, 1], got {self.review_budgets}")
