"""The figures of a demo run: `summary.json`."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from eif_engine import __version__
from services.demo.data import DemoData
from services.demo.flow import Findings


class Seconds(BaseModel):
    """Where the time went.

    Attributes:
        train: Training, with the check of recall@1.
        export: To ONNX, with the comparison on real images.
        start: Of the object store and both services, until they accept calls.
        upload: Of model, images and manifests.
        rank: The rank job as its caller sees it, until the last row is read; holds `features` and `influence`.
        features: Of training and test images through the backbone, by the job's own clock.
        influence: Confusions and scores, by the job's own clock.
        relabel: The index in the embedding service, and the relabel jobs until the last row is read.
        audit: The audit, its report and the verdict of the gate.
        total: From the start of the process to these figures.
    """

    model_config = ConfigDict(extra="forbid")

    train: float
    export: float
    start: float
    upload: float
    rank: float
    features: float
    influence: float
    relabel: float
    audit: float
    total: float


class Summary(BaseModel):
    """What a run found.

    Attributes:
        confusion_pairs: Test samples whose nearest other test sample is of another class.
        flips_planted: Training labels that the demo made wrong; the review budget.
        flips_found_at_budget: Flips among the `flips_planted` samples whose label the relabel job doubts most.
        influence_found_at_budget: The same among the samples most harmful over all confusions. Influence says who
            causes a confusion, not whose label is wrong.
        relabel_hit_rate: Share of all flips whose suggested label is the true one.
        recall_at_1: Of the model, on test classes it never saw.
        audit_flagged: Training samples whose label looks wrong to the audit.
        audit_flips_found: Flips among them.
        audit_hit_rate: Share of all flips that are flagged with their true label as suggestion.
        gate: The verdict: PASS, WARN or FAIL.
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
    audit_flagged: int
    audit_flips_found: int
    audit_hit_rate: float
    gate: str
    seconds: Seconds
    store: str
    data: str
    device: str
    engine_version: str

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


def summarize(data: DemoData, findings: Findings, seconds: Seconds, *, store: str, recall_at_1: float) -> Summary:
    """Hold what the services answered against the truth that only the demo knows."""
    flips, budget, flagged = data.flips, len(data.flips), findings.audited.flagged
    hits = sum(flips.get(row.sample_id) == row.suggested_label for row in findings.suggestions)
    return Summary(
        train_samples=len(data.train),
        test_samples=len(data.test),
        confusion_pairs=len(findings.confusions),
        flips_planted=budget,
        flips_found_at_budget=sum(row.sample_id in flips for row in findings.suggestions[:budget]),
        influence_found_at_budget=sum(row.sample_id in flips for row in findings.ranking[:budget]),
        relabel_hit_rate=hits / budget,
        recall_at_1=recall_at_1,
        audit_flagged=len(flagged),
        audit_flips_found=sum(sample_id in flips for sample_id in flagged),
        audit_hit_rate=sum(flips.get(sample_id) == label for sample_id, label in flagged.items()) / budget,
        gate=str(findings.audited.verdict.verdict),
        seconds=seconds,
        store=store,
        data=data.name,
        device=findings.device,
        engine_version=__version__,
    )
