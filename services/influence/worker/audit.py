"""An audit: what a retraining loop asks of a model and its data, in one pass over cached features."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from eif_engine.audit_config import AuditConfig
from eif_engine.audit_types import Audit, AuditModel, AuditSplit
from eif_engine.errors import InvalidInput
from eif_engine.issue_config import IssueConfig
from eif_engine.jobs.audit import AUDIT_STAGES, run_audit
from eif_engine.jobs.score import MEMORY_BYTES
from eif_engine.models.devices import torch_device
from services.influence.messages import SucceededMessage
from services.influence.spec import AuditSpec
from services.influence.worker.audit_report import write_audit_report
from services.influence.worker.audit_tables import write_audit_tables
from services.influence.worker.embedding_file import fetch_embeddings
from services.influence.worker.estimate import audit_bytes, audit_scoring_bytes, extraction_bytes
from services.influence.worker.explained_confusions import explain_confusions
from services.influence.worker.feature_stage import FeatureFigures, run_features
from services.influence.worker.features import SplitFeatures
from services.influence.worker.inputs import JobModel, class_indices, fetch_model, fetch_split
from services.influence.worker.job import Job
from services.influence.worker.kept import Kept
from services.influence.worker.kept_screen import keep_screen, kept_screen, screen_key
from services.influence.worker.memory import require
from services.influence.worker.options import influence_config
from services.influence.worker.progress import StageChain
from services.influence.worker.provenance import provenance, run_figures
from services.influence.worker.quarantine import Quarantine
from services.influence.worker.reviews import Reviewed, fetch_reviewed
from services.influence.worker.split import Split
from services.influence.worker.writer import publish

STAGES = ("inputs", "features", *AUDIT_STAGES, "report", "results")


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What an audit reads; no model where the caller brings embeddings."""

    model: JobModel | None
    train: Split
    test: Split
    reviewed: Reviewed


def run_audit_job(job: Job, spec: AuditSpec) -> SucceededMessage:
    """Run an audit to its end. Raises EifError, Cancelled."""
    inputs = _inputs(job, spec)
    quarantine = Quarantine(spec.run.max_quarantined_fraction)
    train, test, cached = _features(job, spec, inputs, quarantine)
    audit = _audit(job, spec, inputs, train, test)
    splits = [inputs.train, inputs.test]
    figures = {**audit.figures, "quarantined": quarantine.count, **cached.as_figures()}
    device = inputs.model.device if inputs.model else torch.device("cpu")
    facts = provenance(job, splits=splits, device=device, model=inputs.model, missing="\n".join(audit.missing))
    with job.progress.stage("report", unit="files", total=3) as report:
        tables = write_audit_tables(job.scratch, audit, quarantine, check=job.cancellation.check)
        report(1, 3)
        files: list[Path] = []
        if not spec.skip_report:
            explained = explain_confusions(job, inputs.model, inputs.test, test, audit)
            report(2, 3)
            files.append(
                write_audit_report(
                    job,
                    audit,
                    tables,
                    splits=splits,
                    features=[train, test],
                    explained=explained,
                    figures=figures,
                    provenance=facts,
                )
            )
        report(3, 3)
    with job.progress.stage("results", unit="files", total=len(tables) + len(files)):
        return publish(job, tables, files=files, figures={**figures, **run_figures(job)}, provenance=facts)


def _inputs(job: Job, spec: AuditSpec) -> Inputs:
    with job.progress.stage("inputs", unit="files", total=4) as report:
        model = fetch_model(job, spec.model, torch_device(spec.run.device.value)) if spec.model else None
        report(1, 4)
        train = fetch_split(job, spec.train_manifest, "train", columns=spec.group_by)
        for column in spec.group_by:
            _require_column(train, column)
        if model is not None:
            class_indices(train, range(len(train)), model.loaded.classes)  # told before hours of work
        report(2, 4)
        test = fetch_split(job, spec.test_manifest, "test", columns=spec.group_by)
        report(3, 4)
        inputs = Inputs(model=model, train=train, test=test, reviewed=fetch_reviewed(job, spec.decisions))
        if model is not None:
            _require_memory(job, inputs, feature_dim=model.feature_dim, scoring=_scoring_bytes(spec, inputs))
        report(4, 4)
    return inputs


def _scoring_bytes(spec: AuditSpec, inputs: Inputs) -> int:
    """What the scorer may take: its largest query is a class of which every test sample is confused."""
    if inputs.model is None:
        return MEMORY_BYTES
    loaded = inputs.model.loaded
    config = influence_config(spec.influence, spec.run.seed)
    most_rows = 2 * max(Counter(inputs.test.labels).values(), default=1)
    return audit_scoring_bytes(loaded.head, loaded.loss, config, train=len(inputs.train), most_rows=most_rows)


def _require_memory(job: Job, inputs: Inputs, *, feature_dim: int, scoring: int) -> None:
    train, test, model = len(inputs.train), len(inputs.test), inputs.model
    embedding_dim = model.loaded.head.weight_DF.shape[0] if model else feature_dim
    needed = audit_bytes(train=train, test=test, feature_dim=feature_dim, embedding_dim=embedding_dim, scoring=scoring)
    needed = max(needed, extraction_bytes(model) if model else 0)
    what = f"an audit of {train:,} training and {test:,} test samples"
    require(needed, budget=job.settings.memory_budget_bytes, what=what)


def _require_column(split: Split, name: str) -> None:
    if len(split) and all(value is None for value in split.column(name)):
        raise InvalidInput(
            f"group_by: {split.uri} has no column {name!r}; leave it out, or name one that the manifest has",
            field="influence_job.audit.group_by",
        )


def _features(
    job: Job, spec: AuditSpec, inputs: Inputs, quarantine: Quarantine
) -> tuple[SplitFeatures, SplitFeatures, FeatureFigures]:
    if inputs.model is not None:
        (train, test), cached = run_features(job, inputs.model, (inputs.train, inputs.test), quarantine)
        return train, test, cached
    if spec.train_embeddings is None or spec.test_embeddings is None:
        raise ValueError("an audit without a model has embeddings")  # the spec has made sure of it
    with job.progress.stage("features", unit="files", total=2) as report:
        train = fetch_embeddings(job, spec.train_embeddings, inputs.train, quarantine)
        report(1, 2)
        test = fetch_embeddings(job, spec.test_embeddings, inputs.test, quarantine)
        report(2, 2)
        _require_memory(job, inputs, feature_dim=train.x_NF.shape[1], scoring=MEMORY_BYTES)
    return train, test, FeatureFigures()


def _audit(job: Job, spec: AuditSpec, inputs: Inputs, train: SplitFeatures, test: SplitFeatures) -> Audit:
    model = inputs.model
    config = AuditConfig(
        influence=influence_config(spec.influence, spec.run.seed),
        top_k=spec.top_k,
        proofs=spec.proofs,
        issues=IssueConfig(seed=spec.run.seed),
        memory_bytes=_scoring_bytes(spec, inputs),
        seed=spec.run.seed,
    )
    known, kept = None if model is None else _model(model), Kept(job.store, f"{job.cache_uri}/screens")
    tested = _split(inputs.test, test, spec.group_by)
    key = screen_key(tested, known, config)
    before = kept_screen(kept, key, len(tested))
    with StageChain(job.progress, unit="steps") as stages:
        audit = run_audit(
            train=_split(inputs.train, train, spec.group_by),
            test=tested,
            model=known,
            config=config,
            reviewed=inputs.reviewed,
            screened=before,
            progress=stages.report,
        )
    if before is None:
        keep_screen(kept, key, audit.screened)
    return audit


def _model(model: JobModel) -> AuditModel:
    return AuditModel(head=model.loaded.head, loss=model.loaded.loss, classes=model.loaded.classes)


def _split(split: Split, found: SplitFeatures, columns: Sequence[str]) -> AuditSplit:
    rows = found.rows.tolist()
    values = {name: split.column(name) for name in columns}
    return AuditSplit(
        sample_ids=found.sample_ids,
        labels=found.labels,
        features_NF=torch.from_numpy(found.x_NF),
        digests=[bytes(digest) if digest.any() else None for digest in found.digest_NB],
        columns={
            name: [column[row] or "" for row in rows]
            for name, column in values.items()
            if any(column[row] is not None for row in rows)
        },
    )
