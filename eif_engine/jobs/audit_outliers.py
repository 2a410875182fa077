"""Samples far from everything in their split."""

from __future__ import annotations

from dataclasses import dataclass

from eif_engine.audit_config import AuditConfig
from eif_engine.audit_types import Columns
from eif_engine.functional.agreement import Neighborhood
from eif_engine.functional.outliers import outlier_scores
from eif_engine.jobs.audit_data import AuditData, Samples
from eif_engine.jobs.audit_neighbors import Neighbors


@dataclass(frozen=True, kw_only=True)
class Outlier:
    """A sample, and its distance to its k-th neighbour over the median of that in its split."""

    sample_id: str
    split: str
    label: str
    score: float


def find_outliers(data: AuditData, near: Neighbors, config: AuditConfig) -> list[Outlier]:
    """Those of both splits, farthest first, then by split (train first) and id."""
    found = _of_split(data.train, near.train, config) + _of_split(data.test, near.test, config)
    return sorted(found, key=lambda each: (-each.score, each.split == "test", each.sample_id))


def outliers_table(outliers: list[Outlier]) -> Columns:
    """The table `outliers`."""
    return {
        "rank": list(range(1, len(outliers) + 1)),
        "sample_id": [each.sample_id for each in outliers],
        "split": [each.split for each in outliers],
        "label": [each.label for each in outliers],
        "score": [each.score for each in outliers],
    }


def _of_split(samples: Samples, near: Neighborhood, config: AuditConfig) -> list[Outlier]:
    scores = outlier_scores(near.nearest(config.outlier_neighbors).distance_QK).tolist()
    return [
        Outlier(sample_id=samples.ids[row], split=samples.name, label=samples.labels[row], score=score)
        for row, score in enumerate(scores)
        if score >= config.outlier_ratio
    ]
