"""An audit of a real model trained on wrong labels, held against the truth, which it never sees."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eif_engine.audit_config import AuditConfig
from eif_engine.audit_types import Audit, AuditModel, AuditSplit
from eif_engine.cases import load_case
from eif_engine.cli.audit_files import audit_inputs
from eif_engine.jobs.audit import run_audit


@pytest.fixture(scope="module")
def inputs(shared_dir: Path) -> tuple[AuditSplit, AuditSplit, AuditModel | None]:
    return audit_inputs(load_case(shared_dir / "cases" / "omniglot_proxy_nca.npz"), {}, embeddings=False)


@pytest.fixture(scope="module")
def wrong_ids(shared_dir: Path) -> set[str]:
    with np.load(shared_dir / "cases" / "omniglot_proxy_nca.npz") as arrays:
        wrong_N = arrays["train_labels"] != arrays["train_labels_clean"]
        return set(arrays["train_ids"][wrong_N].tolist())


@pytest.fixture(scope="module")
def audit(inputs: tuple[AuditSplit, AuditSplit, AuditModel | None]) -> Audit:
    train, test, model = inputs
    return run_audit(train=train, test=test, model=model, config=AuditConfig(proofs=1, proof_draws=1))


def flagged(audit: Audit) -> set[str]:
    issues = audit.tables["issues"]
    return {sample_id for sample_id, flag in zip(issues["sample_id"], issues["flagged"], strict=True) if flag}


@pytest.mark.slow
def test_canaries_tell_the_true_precision(audit: Audit, wrong_ids: set[str]) -> None:
    ranked = [sample_id in wrong_ids for sample_id in audit.tables["issues"]["sample_id"]]
    canary = audit.tables["canary"]
    for budget, precision, recall in zip(canary["budget"], canary["precision"], canary["recall"], strict=True):
        assert precision == pytest.approx(sum(ranked[:budget]) / budget, abs=0.1)
        assert recall == pytest.approx(sum(ranked[:budget]) / len(wrong_ids), abs=0.15)
    found = flagged(audit)
    assert audit.figures["canary_precision"] == pytest.approx(len(found & wrong_ids) / len(found), abs=0.1)
    assert len(found & wrong_ids) / len(wrong_ids) > 0.9


@pytest.mark.slow
def test_few_right_test_labels_are_doubted(audit: Audit) -> None:
    """Every test label is right: a confusion is no evidence against a label."""
    assert audit.figures["test_label_issues"] <= 0.02 * audit.figures["test_samples"]
    assert audit.figures["confusions_set_aside"] <= 0.05 * audit.figures["confusion_pairs"]


@pytest.mark.slow
def test_strokes_are_alike_but_no_duplicates(audit: Audit) -> None:
    assert audit.figures["near_duplicates"] <= 3
    assert audit.figures["same_identity_classes"] <= 6
    assert audit.figures["outliers"] == 0


@pytest.mark.slow
def test_findings_stay_when_a_hundredth_of_the_samples_is_new(
    inputs: tuple[AuditSplit, AuditSplit, AuditModel | None], audit: Audit
) -> None:
    train, test, model = inputs
    count = round(len(train) / 1.01)
    before = replace(
        train,
        sample_ids=train.sample_ids[:count],
        labels=train.labels[:count],
        features_NF=train.features_NF[:count],
        digests=train.digests[:count],
    )
    old = flagged(run_audit(train=before, test=test, model=model, config=AuditConfig(proofs=0)))
    new = flagged(audit) & set(before.sample_ids)
    assert len(old & new) / len(old | new) >= 0.95
