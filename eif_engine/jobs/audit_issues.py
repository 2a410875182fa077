"""Label issues of the training set: found, as a table, and as a curve over review budgets."""

from __future__ import annotations

import math
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from eif_engine.audit_config import AuditConfig
from eif_engine.audit_types import AuditModel, Columns
from eif_engine.functional.draws import keys_of
from eif_engine.functional.neighbors import blocks
from eif_engine.functional.review_curve import canary_recall, expected_wrong, review_curve
from eif_engine.issue_config import IssueConfig
from eif_engine.jobs.audit_data import AuditData, Samples
from eif_engine.jobs.audit_influence import Influence
from eif_engine.jobs.audit_neighbors import Neighbors
from eif_engine.jobs.issues import IssueReport, find_issues
from eif_engine.types import Progress

BLOCK_BYTES = 16 * 2**20
"""Of a matrix of the probe; each thread works on about ten at a time."""

ENOUGH_CANARIES = 2000
"""Canaries beyond which further copies tell no more; large training sets get fewer copies."""


@dataclass(frozen=True, kw_only=True)
class Issues:
    """What was found.

    Attributes:
        report: Of find_issues.
        reviewed_N: Samples whose label people have found right.
        flagged_N: Labels that look wrong and are not reviewed.
        expected_N: Expected share of wrong labels among samples that score like each, told by planted flips.
        relabel_N: Class index that each sample should have: the given one unless flagged.
    """

    report: IssueReport
    reviewed_N: NDArray[np.bool_]
    flagged_N: NDArray[np.bool_]
    expected_N: NDArray[np.float64]
    relabel_N: NDArray[np.int64]


def train_issues(
    data: AuditData,
    near: Neighbors,
    config: AuditConfig,
    *,
    influence: Influence | None,
    reviewed: AbstractSet[tuple[str, str]],
    threads: int,
    progress: Progress,
    missing: list[str],
) -> Issues | None:
    """Label issues of the training set, with loss and influence as reported parts; None with one class only."""
    train = data.train
    if len(set(train.labels)) < 2:
        missing.append("Label issues need two classes with training samples; there is one.")
        return None
    report = find_issues(
        features_NF=train.features_NF,
        embeddings_ND=train.embeddings_ND,
        labels_N=train.codes_N,
        num_classes=len(train.classes),
        loss_N=None if data.model is None else losses(train, data.model),
        influence_N=_absolute(influence, train),
        near=near.train,
        embedding_near=near.train_embedding,
        keys_N=keys_of(train.ids),
        threads=threads,
        config=fitted(config.issues, len(train)),
        progress=progress,
    )
    reviewed_N = np.array([pair in reviewed for pair in zip(train.ids, train.labels, strict=True)], dtype=bool)
    flagged_N = (report.issue_score_N >= report.flag_above) & ~reviewed_N
    given_N = train.codes_N.cpu().numpy()
    return Issues(
        report=report,
        reviewed_N=reviewed_N,
        flagged_N=flagged_N,
        expected_N=expected_wrong(report.issue_score_N, report.canary_score_B),
        relabel_N=np.where(flagged_N, report.suggested_label_N, given_N),
    )


def fitted(config: IssueConfig, samples: int) -> IssueConfig:
    """With as few copies as hold canaries enough, and in blocks that several threads can hold."""
    copies = math.ceil(ENOUGH_CANARIES / max(1, round(config.canary_fraction * samples)))
    return replace(
        config,
        canary_copies=min(config.canary_copies, copies),
        block_bytes=min(config.block_bytes, BLOCK_BYTES),
    )


def losses(train: Samples, model: AuditModel) -> torch.Tensor:
    """Loss of each training sample under the model and its given label, in float64."""
    device = train.codes_N.device
    loss = model.loss.to(device=device, dtype=torch.float64)
    found_N = torch.empty(len(train), dtype=torch.float64, device=device)
    with torch.no_grad():
        for part in blocks(len(train), 4 * loss.num_classes + loss.embedding_dim, 8):
            found_N[part] = loss.per_sample(train.embeddings_ND[part].double(), train.codes_N[part])
    return found_N


def _absolute(influence: Influence | None, train: Samples) -> torch.Tensor | None:
    return None if influence is None else torch.from_numpy(influence.harm.absolute_N).to(train.codes_N.device)


def issues_table(issues: Issues, train: Samples) -> Columns:
    """The table `issues`."""
    report = issues.report
    order = sorted(range(len(train)), key=lambda row: (-report.issue_score_N[row], train.ids[row]))
    order_N = np.array(order, dtype=np.int64)
    shown = [[row for row in rows if row >= 0] for rows in report.neighbor_rows_NK[order_N].tolist()]
    parts_NP = np.stack(list(report.parts.values()), axis=1)[order_N]
    return {
        "rank": np.arange(1, len(order) + 1),
        "sample_id": [train.ids[row] for row in order],
        "label": [train.labels[row] for row in order],
        "issue_probability": report.issue_score_N[order_N],
        "flagged": issues.flagged_N[order_N],
        "reviewed": issues.reviewed_N[order_N],
        "suggested_label": [train.classes[code] for code in report.suggested_label_N[order_N].tolist()],
        "suggested_probability": report.suggested_probability_N[order_N],
        "alternative_label": [train.classes[code] for code in report.alternative_label_N[order_N].tolist()],
        "alternative_probability": report.alternative_probability_N[order_N],
        "neighbor_ids": [[train.ids[row] for row in rows] for rows in shown],
        "neighbor_labels": [[train.labels[row] for row in rows] for rows in shown],
        "part_names": [list(report.parts)] * len(order),
        "part_scores": parts_NP.tolist(),
    }


def canary_table(issues: Issues, config: AuditConfig) -> Columns:
    """The table `canary`: budgets are spent on samples that are not reviewed."""
    report, open_N = issues.report, ~issues.reviewed_N
    budgets = sorted(set(config.review_budgets))
    points = review_curve(report.issue_score_N[open_N], issues.expected_N[open_N], report.canary_score_B, budgets)
    return {
        "budget_share": [point.share for point in points],
        "budget": [point.budget for point in points],
        "precision": [point.precision for point in points],
        "recall": [point.recall for point in points],
    }


def issue_figures(issues: Issues) -> dict[str, float]:
    """The figures about label issues; precision is absent where nothing is flagged."""
    report, flagged_N = issues.report, issues.flagged_N
    figures = {
        "label_issues": float(flagged_N.sum()),
        "label_issue_share": float(flagged_N.mean()),
        "estimated_noise": report.estimated_noise,
        "likely_noise": report.likely_noise,
        "reviewed": float(issues.reviewed_N.sum()),
        "canary_recall": canary_recall(report.canary_score_B, report.flag_above),
    }
    if flagged_N.any():
        figures["canary_precision"] = float(issues.expected_N[flagged_N].mean())
    return figures
