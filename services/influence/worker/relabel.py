"""A relabel job: labels that the neighbours of training samples vote for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from eif_engine.config import NeighborSpace
from eif_engine.functional.relabel import median_shots
from eif_engine.jobs.relabel import Suggestion
from eif_engine.models.devices import torch_device
from services.influence.messages import SucceededMessage
from services.influence.spec import RelabelSpec
from services.influence.worker.estimate import extraction_bytes, relabel_bytes
from services.influence.worker.feature_stage import STAGE as FEATURES
from services.influence.worker.feature_stage import FeatureFigures, run_features
from services.influence.worker.inputs import JobModel, fetch_model, fetch_split
from services.influence.worker.job import Job
from services.influence.worker.memory import require
from services.influence.worker.neighbors import Outcome, from_index, from_model
from services.influence.worker.provenance import provenance, run_figures
from services.influence.worker.quarantine import Quarantine
from services.influence.worker.selection import selected_ids
from services.influence.worker.split import Split
from services.influence.worker.table_file import TableFile, write_quarantine
from services.influence.worker.writer import publish

STAGES = ("inputs", "features", "neighbors", "results")
TABLES = 2
WRITE_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a relabel job reads; no model when neighbours come from an index, no `wanted` ids when all are."""

    model: JobModel | None
    train: Split
    wanted: list[str] | None


def run_relabel(job: Job, spec: RelabelSpec) -> SucceededMessage:
    """Run a relabel job to its end. Raises EifError, Cancelled."""
    inputs = _inputs(job, spec)
    model, train = inputs.model, inputs.train
    quarantine = Quarantine(spec.run.max_quarantined_fraction)
    outcome, cached = _outcome(job, spec, inputs, quarantine)
    with job.progress.stage("results", unit="tables", total=TABLES) as report:
        relabel = write_relabel(job.scratch, outcome.suggestions, check=job.cancellation.check)
        report(1, TABLES)
        quarantined = write_quarantine(job.scratch, quarantine)
        figures = {
            "train_samples": len(train) - quarantine.count,
            "classes": len(set(train.labels)),
            "suggestions": len(outcome.suggestions),
            "changed_labels": sum(each.suggested_label != each.label for each in outcome.suggestions),
            "quarantined": quarantine.count,
            **outcome.figures,
            **cached.as_figures(),
            **run_figures(job),
        }
        device = model.device if model is not None else torch.device("cpu")
        facts = provenance(job, splits=[train], device=device, model=model)
        result = publish(job, [relabel, quarantined], figures=figures, provenance=facts)
        report(2, TABLES)
    return result


def write_relabel(folder: Path, suggestions: Sequence[Suggestion], *, check: Callable[[], None]) -> TableFile:
    """The table `relabel`: the most doubtful label first."""
    with TableFile("relabel", folder) as table:
        for start in range(0, len(suggestions), WRITE_ROWS):
            check()
            part = suggestions[start : start + WRITE_ROWS]
            table.write(
                {
                    "rank": list(range(start + 1, start + 1 + len(part))),
                    "sample_id": [each.sample_id for each in part],
                    "label": [each.label for each in part],
                    "suggested_label": [each.suggested_label for each in part],
                    "suggested_probability": [each.suggested_probability for each in part],
                    "label_probability": [each.label_probability for each in part],
                    "score": [each.score for each in part],
                    "neighbor_ids": [[voter.sample_id for voter in each.neighbors] for each in part],
                    "neighbor_labels": [[voter.label for voter in each.neighbors] for each in part],
                    "neighbor_distances": [[voter.distance for voter in each.neighbors] for each in part],
                }
            )
    return table


def _inputs(job: Job, spec: RelabelSpec) -> Inputs:
    with job.progress.stage("inputs", unit="files", total=2) as report:
        model = None
        if spec.knn_index is None and spec.model is not None:
            model = fetch_model(job, spec.model, torch_device(spec.run.device.value))
        report(1, 2)
        train = fetch_split(job, spec.train_manifest, "train")
        wanted = selected_ids(job, spec.samples, train)
        _require_memory(job, spec, model, train, len(train) if wanted is None else len(wanted))
        report(2, 2)
    return Inputs(model=model, train=train, wanted=wanted)


def _outcome(job: Job, spec: RelabelSpec, inputs: Inputs, quarantine: Quarantine) -> tuple[Outcome, FeatureFigures]:
    model, train, wanted = inputs.model, inputs.train, inputs.wanted
    if model is None:
        with job.progress.stage(FEATURES, unit="samples"):  # the embedding service has them
            pass
        return from_index(job, spec, train, wanted, quarantine), FeatureFigures()
    (features,), cached = run_features(job, model, (train,), quarantine)
    return from_model(job, spec, model, features, wanted), cached


def _require_memory(job: Job, spec: RelabelSpec, model: JobModel | None, train: Split, wanted: int) -> None:
    dim = 0
    if model is not None:
        head = model.loaded.head.weight_DF
        dim = int(head.shape[1 if spec.space is NeighborSpace.PENULTIMATE else 0])
    count = spec.num_neighbors or median_shots(train.labels)
    needed = relabel_bytes(samples=len(train), wanted=wanted, dim=dim, num_neighbors=count)
    if model is not None:
        needed = max(needed, extraction_bytes(model))
    what = f"a relabel job on {len(train):,} samples, {wanted:,} of them with suggestions"
    require(needed, budget=job.settings.memory_budget_bytes, what=what)
