"""The figures of a demo run: `summary.json`."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict


class Seconds(BaseModel):
    """Where the time went."""

    model_config = ConfigDict(extra="forbid")

    train: float
    upload: float
    features: float
    influence: float
    relabel: float
    total: float


class Summary(BaseModel):
    """What a run found.

    Attributes:
        confusion_pairs: Test samples whose nearest other test sample is of another class.
        flips_planted: Training labels that the demo made wrong; the review budget.
        flips_found_at_budget: Flips among the `flips_planted` samples whose label the relabel job doubts most.
        influence_found_at_budget: The same, among the samples most harmful over all confusions. Influence says who
            causes a confusion, not whose label is wrong, so it is expected to find fewer.
        relabel_hit_rate: Share of all flips whose suggested label is the true one.
        recall_at_1: Of the model, on test classes it never saw.
    """

    model_config = ConfigDict(extra="forbid")

    train_samples: int
    test_samples: int
    confusion_pairs: int
    flips_planted: int
    flips_found_at_budget: int
    influence_found_at_budget: int
    relabel_hit_rate: float
    recall_at_1: float
    seconds: Seconds
    store: str
    data: str
    device: str
    engine_version: str

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(self.model_dump_json(indent=2) + "\n")
