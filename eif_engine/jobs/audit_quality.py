"""Retrieval quality of the test set as a table: over all, by class, and by every column of the test manifest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from eif_engine.audit_config import AuditConfig
from eif_engine.audit_types import Columns
from eif_engine.functional.retrieval import Retrieval, retrieve
from eif_engine.jobs.audit_data import Samples

MAP_AT_R = "map_at_r"


def retrieval(test: Samples, config: AuditConfig) -> Retrieval:
    """What each test sample finds among the others by its embedding."""
    return retrieve(test.embeddings_ND, test.codes_N, recall_ks(config))


def recall_ks(config: AuditConfig) -> list[int]:
    """The k of recall@k, ascending; 1 is always there."""
    return sorted({1, *config.recall_at})


def quality_table(found: Retrieval, test: Samples, config: AuditConfig) -> Columns:
    """The table `quality`: scope by scope, in it value by value in text order, in that metric by metric."""
    metrics = _metrics(found, config)
    scopes: list[tuple[str, Sequence[str]]] = [("all", [""] * len(test)), ("class", test.labels)]
    scopes += [(f"column:{name}", test.split.columns[name]) for name in sorted(test.split.columns)]
    rows = [row for scope, values in scopes for row in _scope(scope, values, metrics)]
    names = ("scope", "value", "metric", "samples", "score")
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}


def quality_figures(found: Retrieval, config: AuditConfig) -> dict[str, float]:
    """`recall_at_<k>` and `map_at_r` over all; a metric that no sample has is absent."""
    means = {name: values_M[~np.isnan(values_M)] for name, values_M in _metrics(found, config).items()}
    return {name: float(values.mean()) for name, values in means.items() if len(values)}


def _metrics(found: Retrieval, config: AuditConfig) -> dict[str, NDArray[np.float64]]:
    recalls = {f"recall_at_{k}": found.recall_at(k).double().cpu().numpy() for k in recall_ks(config)}
    return recalls | {MAP_AT_R: found.average_precision_M.cpu().numpy()}


def _scope(
    scope: str, values: Sequence[str], metrics: dict[str, NDArray[np.float64]]
) -> list[tuple[str, str, str, int, float]]:
    """Means by value; a metric is a mean over the samples that have it, and has no row where none has."""
    names, codes_M = np.unique(np.asarray(values, dtype=np.str_), return_inverse=True)
    tables = {}
    for metric, score_M in metrics.items():
        known_M = ~np.isnan(score_M)
        samples = np.bincount(codes_M[known_M], minlength=len(names))
        total = np.bincount(codes_M[known_M], weights=score_M[known_M], minlength=len(names))
        tables[metric] = samples, total / np.maximum(samples, 1)
    return [
        (scope, str(name), metric, int(samples[place]), float(mean[place]))
        for place, name in enumerate(names)
        for metric, (samples, mean) in tables.items()
        if samples[place]
    ]
