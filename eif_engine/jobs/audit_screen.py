"""The screen of test labels: a confusion whose test label itself looks wrong must not blame training data."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from eif_engine.audit_config import AuditConfig
from eif_engine.audit_types import Columns, Screened
from eif_engine.functional.draws import keys_of
from eif_engine.jobs.audit_data import Samples
from eif_engine.jobs.audit_neighbors import Neighbors
from eif_engine.jobs.issues import find_issues
from eif_engine.types import Progress

ENOUGH_SAMPLES, ENOUGH_SHOTS = 40, 4
"""Test samples in all, and in the median class, below which labels cannot be told from each other."""


def screen(
    test: Samples, near: Neighbors, config: AuditConfig, *, threads: int, progress: Progress, missing: list[str]
) -> Screened | None:
    """Label issues of the test set; None where it is too small, which `missing` is told.

    The model was not trained on these labels (in metric learning, not even on these classes), so wrong ones have
    pulled nothing, and there is no loss.
    """
    counts_C = torch.bincount(test.codes_N)
    present_C = counts_C[counts_C > 0]
    shots = int(present_C.median())
    if len(present_C) < 2 or len(test) < ENOUGH_SAMPLES or shots < ENOUGH_SHOTS:
        missing.append(
            f"The screen of test labels needs {ENOUGH_SAMPLES} samples, two classes and {ENOUGH_SHOTS} samples in the "
            f"median class; the test set has {len(test)}, {len(present_C)} and {shots}. No confusion is set aside."
        )
        return None
    report = find_issues(
        features_NF=test.features_NF,
        embeddings_ND=test.embeddings_ND,
        labels_N=test.codes_N,
        num_classes=len(test.classes),
        near=near.test,
        embedding_near=near.test_embedding,
        keys_N=keys_of(test.ids),
        threads=threads,
        learned=False,
        config=config.issues,
        progress=progress,
    )
    return Screened(
        issue_score_M=report.issue_score_N,
        suggested_label_M=report.suggested_label_N,
        suggested_probability_M=report.suggested_probability_N,
        alternative_label_M=report.alternative_label_N,
        flag_above=report.flag_above,
    )


def wrong_probability(screened: Screened | None, count: int) -> NDArray[np.float64]:
    """Probability that each test label is wrong (M,); zeros without a screen."""
    return np.zeros(count) if screened is None else screened.issue_score_M


def screen_table(screened: Screened | None, test: Samples) -> Columns:
    """The table `test_issues`."""
    rows: list[int] = []
    if screened is not None:
        doubted = np.flatnonzero(screened.doubted_M).tolist()
        rows = sorted(doubted, key=lambda row: (-screened.issue_score_M[row], test.ids[row]))
    suggested = [] if screened is None else [test.classes[code] for code in screened.suggested_label_M[rows].tolist()]
    return {
        "sample_id": [test.ids[row] for row in rows],
        "label": [test.labels[row] for row in rows],
        "issue_probability": [] if screened is None else screened.issue_score_M[rows],
        "suggested_label": suggested,
        "suggested_probability": [] if screened is None else screened.suggested_probability_M[rows],
    }
