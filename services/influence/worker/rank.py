"""A rank job: from manifests and a model to the training samples behind each confusion."""

from __future__ import annotations

import torch

from eif_engine.models.devices import torch_device
from services.influence.messages import SucceededMessage
from services.influence.spec import RankSpec
from services.influence.worker.confusions import run_confusions
from services.influence.worker.estimate import rank_bytes
from services.influence.worker.feature_stage import run_features
from services.influence.worker.influence import run_influence
from services.influence.worker.inputs import JobModel, class_indices, fetch_model, fetch_split
from services.influence.worker.job import Job
from services.influence.worker.memory import require
from services.influence.worker.provenance import provenance, run_figures
from services.influence.worker.quarantine import Quarantine
from services.influence.worker.rank_tables import write_pairs, write_ranking
from services.influence.worker.split import Split
from services.influence.worker.table_file import write_quarantine
from services.influence.worker.writer import publish

STAGES = ("inputs", "features", "confusions", "influence", "results")
TABLES = 3


def run_rank(job: Job, spec: RankSpec) -> SucceededMessage:
    """Run a rank job to its end. Raises EifError, Cancelled."""
    model, train_split, test_split = _inputs(job, spec)
    quarantine = Quarantine(spec.run.max_quarantined_fraction)
    (train, test), cached = run_features(job, model, (train_split, test_split), quarantine)
    confusions = run_confusions(job, spec, model, test, quarantine)
    labels = class_indices(train_split, train.rows.tolist(), model.loaded.classes)
    scores = run_influence(
        job, spec, model, train=train, labels_N=torch.from_numpy(labels), test=test, queries=confusions.queries
    )
    with job.progress.stage("results", unit="tables", total=TABLES) as report:
        ranking = write_ranking(job.scratch, scores, train, confusions.queries, check=job.cancellation.check)
        report(1, TABLES)
        pairs = write_pairs(job.scratch, test, confusions.queries)
        report(2, TABLES)
        quarantined = write_quarantine(job.scratch, quarantine)
        figures = {
            "train_samples": len(train.rows),
            "test_samples": len(test.rows),
            "classes": len(model.loaded.classes),
            "quarantined": quarantine.count,
            **confusions.as_figures(),
            **cached.as_figures(),
            **run_figures(job),
        }
        facts = provenance(job, splits=[train_split, test_split], device=model.device, model=model)
        result = publish(job, [ranking, pairs, quarantined], figures=figures, provenance=facts)
        report(3, TABLES)
    return result


def _inputs(job: Job, spec: RankSpec) -> tuple[JobModel, Split, Split]:
    with job.progress.stage("inputs", unit="files", total=3) as report:
        model = fetch_model(job, spec.model, torch_device(spec.run.device.value))
        report(1, 3)
        train = fetch_split(job, spec.train_manifest, "train")
        class_indices(train, range(len(train)), model.loaded.classes)  # a wrong label is told before hours of work
        report(2, 3)
        test = fetch_split(job, spec.test_manifest, "test")
        needed = rank_bytes(model, train=len(train), test=len(test), spec=spec)
        what = f"a rank job on {len(train):,} training and {len(test):,} test samples"
        require(needed, budget=job.settings.memory_budget_bytes, what=what)
        report(3, 3)
    return model, train, test
