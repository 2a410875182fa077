"""What is measured of an audit in the engine. Each section makes its inputs, audits them, and returns figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eif_engine.audit_config import AuditConfig
from eif_engine.audit_types import Audit, AuditModel, AuditSplit
from eif_engine.cases import load_case
from eif_engine.cli.audit_files import audit_inputs
from eif_engine.jobs.audit import run_audit
from tests.benchmarks.audit.digits import digits
from tests.benchmarks.audit.identities import identities_frozen, identities_trained
from tests.benchmarks.audit.synthetic import synthetic
from tests.benchmarks.engine.measure import peak_bytes, seconds

Inputs = tuple[AuditSplit, AuditSplit, AuditModel | None, Tensor]


def canaries_case(shared: Path) -> dict[str, float]:
    """Canary precision and recall beside the truth, on the case with 10 % flips."""
    return _canaries(_case(shared))


def canaries_digits_clean(_: Path) -> dict[str, float]:
    """The same on digits without wrong labels."""
    return _canaries(digits(flipped=0.0))


def canaries_digits_5(_: Path) -> dict[str, float]:
    """The same on digits with 5 % flips."""
    return _canaries(digits(flipped=0.05))


def canaries_digits_10(_: Path) -> dict[str, float]:
    """The same on digits with 10 % flips."""
    return _canaries(digits(flipped=0.1))


def canaries_digits_20(_: Path) -> dict[str, float]:
    """The same on digits with 20 % flips."""
    return _canaries(digits(flipped=0.2))


def grown_case(shared: Path) -> dict[str, float]:
    """The case without its last 1 % of samples, and with them: what stays the same."""
    train, test, model, _ = _case(shared)
    count = round(len(train) / 1.01)
    before = run_audit(train=_first(train, count), test=test, model=model, config=AuditConfig(proofs=0))
    after = run_audit(train=train, test=test, model=model, config=AuditConfig(proofs=0))
    old, new = _flagged(before), _flagged(after) & set(train.sample_ids[:count])
    findings = [set(audit.tables["findings"]["finding_id"]) for audit in (before, after)]
    return {
        "samples_before": count,
        "samples_after": len(train),
        "flagged_before": len(old),
        "flagged_after_of_the_same": len(new),
        "flagged_in_both_over_either": len(old & new) / len(old | new),
        "findings_in_both_over_either": len(findings[0] & findings[1]) / len(findings[0] | findings[1]),
    }


def scale_10k(_: Path) -> dict[str, float]:
    """10,000 training samples, 2,000 test samples, 200 classes, 512 features."""
    return _scale(train=10_000, test=2_000, classes=200)


def scale_100k(_: Path) -> dict[str, float]:
    """100,000 training samples, 10,000 test samples, 1,000 classes, 512 features."""
    return _scale(train=100_000, test=10_000, classes=1_000)


SECTIONS: Mapping[str, Callable[[Path], dict[str, float]]] = {
    each.__name__: each
    for each in (
        canaries_case,
        canaries_digits_clean,
        canaries_digits_5,
        canaries_digits_10,
        canaries_digits_20,
        grown_case,
        identities_trained,
        identities_frozen,
        scale_10k,
        scale_100k,
    )
}


def _case(shared: Path) -> Inputs:
    path = shared / "cases" / "omniglot_proxy_nca.npz"
    case = load_case(path)
    with np.load(path) as arrays:
        wrong_N = torch.from_numpy(arrays["train_labels"] != arrays["train_labels_clean"])
    return *audit_inputs(case, {}, embeddings=False), wrong_N


def _canaries(inputs: Inputs) -> dict[str, float]:
    train, test, model, wrong_N = inputs
    audit = run_audit(train=train, test=test, model=model, config=AuditConfig())
    wrong = _wrong(train, wrong_N)
    ranked = [sample_id in wrong for sample_id in audit.tables["issues"]["sample_id"]]
    figures = {"samples": float(len(train)), "wrong_share": len(wrong) / len(train)}
    canary = audit.tables["canary"]
    for share, budget, precision, recall in zip(*(list(canary[name]) for name in canary), strict=True):
        at = f"at_{share:g}"
        figures |= {
            f"precision_said_{at}": precision,
            f"precision_true_{at}": sum(ranked[:budget]) / budget,
            f"recall_said_{at}": recall,
        }
        if wrong:
            figures[f"recall_true_{at}"] = sum(ranked[:budget]) / len(wrong)
    flagged = _flagged(audit)
    kept = (*(name for name in audit.figures if name.startswith(("canary", "proof", "estimated", "label_issues"))),)
    figures |= {name: audit.figures[name] for name in kept}
    if flagged:
        figures["flagged_precision_true"] = len(flagged & wrong) / len(flagged)
    return figures | {"seconds": sum(audit.seconds.values())}


def _scale(*, train: int, test: int, classes: int) -> dict[str, float]:
    train_split, test_split, model, wrong_N = synthetic(train=train, test=test, classes=classes)
    before = peak_bytes()
    found: list[Audit] = []
    elapsed = seconds(
        lambda: found.append(run_audit(train=train_split, test=test_split, model=model, config=AuditConfig()))
    )
    (audit,) = found
    wrong = {
        sample_id for sample_id, is_wrong in zip(train_split.sample_ids, wrong_N.tolist(), strict=True) if is_wrong
    }
    flagged = _flagged(audit)
    return {
        "seconds": elapsed,
        **{f"seconds_{stage}": value for stage, value in audit.seconds.items()},
        "peak_bytes": peak_bytes(),
        "peak_bytes_of_inputs": before,
        "confusion_classes": audit.figures["confusion_classes"],
        "flagged": len(flagged),
        "flagged_precision_true": len(flagged & wrong) / max(1, len(flagged)),
        "flagged_recall_true": len(flagged & wrong) / len(wrong),
    }


def _flagged(audit: Audit) -> set[str]:
    issues = audit.tables["issues"]
    return {sample_id for sample_id, flagged in zip(issues["sample_id"], issues["flagged"], strict=True) if flagged}


def _first(split: AuditSplit, count: int) -> AuditSplit:
    return AuditSplit(
        sample_ids=split.sample_ids[:count],
        labels=split.labels[:count],
        features_NF=split.features_NF[:count],
        digests=split.digests[:count],
        columns={name: values[:count] for name, values in split.columns.items()},
    )


def _wrong(split: AuditSplit, wrong_N: Tensor) -> set[str]:
    return {sample_id for sample_id, wrong in zip(split.sample_ids, wrong_N.tolist(), strict=True) if wrong}
