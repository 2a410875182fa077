"""The rankings that the experiments compare: scores of every training sample on every query, above 0 is harmful."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from eif_engine.cases import Case
from eif_engine.config import FirstOrder, InfluenceConfig, Metric, PublishedSteps, QueryKind, UnitStep
from eif_engine.jobs.methods import rank_by
from eif_engine.jobs.queries import confusions, find_queries
from eif_engine.method_config import Method
from eif_engine.types import Query

UNIT = "EIF, 1 step of 1"
PUBLISHED = "EIF, published 50 steps"
SHORT = "EIF, 20 steps of 0.2 in all"
LONG = "EIF, 20 steps of 0.2 |W| in all"
KFAC = "EIF kfac, 1 step of 1"
KFAC_STEPS = "EIF kfac, 20 steps of 0.6 |W| in all"
KFAC_DAMPED = "EIF kfac, damping 10, 20 steps of 0.2 |W| in all"
GRADIENTS = "gradient dot product"
IF = "IF, published recursion"
IF_EKFAC = "IF, EK-FAC"
RANDOM = "random"


def influence_configs(case: Case) -> dict[str, InfluenceConfig]:
    """The ways of moving theta that are compared, by name."""
    norm = float(case.head.weight_DF.norm())
    return {
        PUBLISHED: InfluenceConfig(step=PublishedSteps(steps=50, learning_rate=1e-3), num_thetas=1, normalize=False),
        UNIT: InfluenceConfig(step=UnitStep(radius=1.0)),
        SHORT: InfluenceConfig(step=UnitStep(radius=0.2, steps=20)),
        LONG: InfluenceConfig(step=UnitStep(radius=0.2 * norm, steps=20)),
        KFAC: InfluenceConfig(metric=Metric.KFAC, damping=0.01, step=UnitStep(radius=1.0)),
        KFAC_STEPS: InfluenceConfig(metric=Metric.KFAC, damping=0.01, step=UnitStep(radius=0.6 * norm, steps=20)),
        KFAC_DAMPED: InfluenceConfig(metric=Metric.KFAC, damping=10.0, step=UnitStep(radius=0.2 * norm, steps=20)),
        GRADIENTS: InfluenceConfig(step=FirstOrder()),
    }


BASELINES = {IF: Method.PUBLISHED_IF, IF_EKFAC: Method.IF_EKFAC}
METHODS = (PUBLISHED, UNIT, SHORT, LONG, KFAC, KFAC_STEPS, KFAC_DAMPED, GRADIENTS, IF, IF_EKFAC)


def scores(case: Case, queries: Sequence[Query], method: str) -> NDArray[np.float64]:
    """Scores (Q, N) of a method."""
    ranked = rank_by(
        BASELINES.get(method, Method.EIF),
        head=case.head,
        loss=case.loss,
        train_features_NF=case.train_features_NF,
        train_labels_N=case.train_labels_N,
        test_features_MF=case.test_features_MF,
        queries=queries,
        config=influence_configs(case).get(method, InfluenceConfig()),
    )
    return np.array([found for _, found in ranked])


class Rankings:
    """Scores of some queries by method, each computed when first asked for."""

    def __init__(self, case: Case, queries: Sequence[Query]) -> None:
        self.queries = queries
        self._case = case
        self._scores: dict[str, NDArray[np.float64]] = {}

    def __getitem__(self, method: str) -> NDArray[np.float64]:
        if method not in self._scores:
            self._scores[method] = scores(self._case, self.queries, method)
        return self._scores[method]


def closest_pairs(case: Case, count: int | None) -> list[Query]:
    """The closest confusions, no sample in two of them: pair (i, j) is often there as (j, i) too."""
    queries = find_queries(
        embeddings_MD=case.head.embed(case.test_features_MF),
        labels=case.test_labels,
        sample_ids=case.test_ids,
        kind=QueryKind.CONFUSION_PAIRS,
    )
    seen: set[int] = set()
    kept = []
    for query in queries:
        rows = {query.pairs[0].row, query.pairs[0].neighbor}
        if not rows & seen:
            kept.append(query)
            seen |= rows
    return kept[:count]


def largest_groups(case: Case, count: int) -> list[Query]:
    """The classes with the most confusions."""
    return find_queries(
        embeddings_MD=case.head.embed(case.test_features_MF),
        labels=case.test_labels,
        sample_ids=case.test_ids,
        kind=QueryKind.CONFUSION_GROUPS,
        max_queries=count,
    )


def recall(case: Case) -> float:
    """Recall@1 of the test set."""
    return 1 - len(confusions(case.head.embed(case.test_features_MF), case.test_labels)) / len(case.test_labels)
