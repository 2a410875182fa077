"""Influence of the training samples on every class of confusions, in one pass: sums, both ends, and a few whole rows.

A class counts by its confusions: to first order the influence on the mean of its pairs, times their number, is the sum
of the influences on each. So harm is that over all confusions, though only classes are scored. Rank intervals resample
classes, not pairs: confusions of one class are not independent of each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from eif_engine.audit_config import AuditConfig
from eif_engine.audit_types import Columns
from eif_engine.config import FirstOrder, InfluenceConfig, PublishedSteps
from eif_engine.errors import MemoryExceeded
from eif_engine.jobs.audit_data import AuditData, Samples
from eif_engine.jobs.harm import Harm, HarmConfig, HarmSum
from eif_engine.jobs.one_core import cores
from eif_engine.jobs.ranking import RankingOrder
from eif_engine.jobs.score import Scorer
from eif_engine.types import ALL_QUERIES, Progress, Query

REPLICATES = 100
_REPLICATE_BYTES = 8
"""Bytes a sample that a bootstrap resample takes: its sum and its rank."""

_BOOTSTRAP_SHARE = 4
"""Of the memory budget one part in so many goes to the bootstrap."""


@dataclass(frozen=True, kw_only=True)
class Influence:
    """What was found.

    Attributes:
        harm: Over all confusions.
        ranking: The table `ranking` by query id.
        harmful: Training samples that make up half of the positive harm, by query id.
        rows_QN: Scores on the first classes, for the proof.
    """

    harm: Harm
    ranking: dict[str, Columns]
    harmful: dict[str, int]
    rows_QN: list[NDArray[np.float64]]


def score_groups(
    data: AuditData,
    groups: Sequence[Query],
    config: AuditConfig,
    *,
    threads: int,
    progress: Progress,
    missing: list[str],
) -> Influence | None:
    """Influence on every group; None without a model.

    Args:
        data: The splits, and the model.
        groups: Confusion classes, the largest first.
        config: How, and the memory it may take.
        threads: Tiles at a time, each on one core.
        progress: Called with groups done.
        missing: Told what is left out.

    Raises:
        MemoryExceeded: The budget does not hold the scores of one group.
    """
    train, model = data.train, data.model
    if model is None:
        return None
    replicates = _replicates(len(train), config.memory_bytes)
    order, harm = RankingOrder(train.ids), HarmSum(train.ids, HarmConfig(replicates=replicates, seed=config.seed))
    ranking: dict[str, Columns] = {}
    harmful: dict[str, int] = {}
    rows_QN: list[NDArray[np.float64]] = []
    influence = _affordable(config, len(groups) * len(train) * model.loss.num_classes, missing)
    scorer = Scorer(
        head=model.head,
        loss=model.loss,
        train_features=train.features_NF,
        train_labels_N=train.codes_N,
        config=influence,
        device=train.features_NF.device,
        memory_bytes=config.memory_bytes - replicates * _REPLICATE_BYTES * len(train),
    )
    try:
        with cores(threads):
            for chunk in scorer.chunks(groups, data.test.features_NF.cpu(), progress=progress):
                for group, scores_N in zip(chunk.queries, chunk.scores_QN.numpy(), strict=True):
                    ranking[group.query_id] = _ends(train, order, scores_N, config.top_k)
                    harmful[group.query_id] = half_of_harm(scores_N)
                    if len(rows_QN) < config.proofs:
                        rows_QN.append(scores_N.copy())
                harm.add(chunk.scores_QN.mul_(_confusions(chunk.queries)))
    except ValueError as error:
        raise MemoryExceeded(
            f"memory_bytes of {config.memory_bytes:,} is too small to score one class of confusions: {error}",
            budget_bytes=config.memory_bytes,
        ) from error
    total = harm.harm()
    ranking = {ALL_QUERIES: _ranking(train, total.order_N, np.arange(len(train)) + 1, total.signed_N)} | ranking
    return Influence(harm=total, ranking=ranking, harmful=harmful, rows_QN=rows_QN)


def _confusions(groups: Sequence[Query]) -> torch.Tensor:
    """How many confusions each class has (Q, 1)."""
    return torch.tensor([[float(len(group.pairs))] for group in groups], dtype=torch.float64)


def half_of_harm(scores_N: NDArray[np.float64]) -> int:
    """Fewest samples that make up half of the positive harm; 0 where there is none."""
    positive = -np.sort(-scores_N[scores_N > 0])
    total = np.cumsum(positive)
    return int(np.searchsorted(total, total[-1] / 2) + 1) if len(total) else 0


def harm_table(harm: Harm, train: Samples) -> Columns:
    """The table `harm`."""
    order_N = harm.order_N
    return {
        "rank": harm.rank_N[order_N],
        "sample_id": [train.ids[row] for row in order_N.tolist()],
        "label": [train.labels[row] for row in order_N.tolist()],
        "rank_low": harm.rank_low_N[order_N],
        "rank_high": harm.rank_high_N[order_N],
        "signed": harm.signed_N[order_N],
        "absolute": harm.absolute_N[order_N],
        "positive": harm.positive_N[order_N],
    }


def harm_of_top_percent(harm: Harm) -> float:
    """Share of all positive harm that the most harmful 1 % (at least one sample) do; 0 without harm."""
    positive_N = -np.sort(-harm.positive_N)
    total = positive_N.sum()
    return float(positive_N[: max(1, round(0.01 * len(positive_N)))].sum() / total) if total > 0 else 0.0


def _ends(train: Samples, order: RankingOrder, scores_N: NDArray[np.float64], top_k: int) -> Columns:
    rows_K, ranks_K = order.ends(scores_N.astype(np.float32), top_k)
    return _ranking(train, rows_K, ranks_K, scores_N)


def _ranking(
    train: Samples, rows_K: NDArray[np.int64], ranks_K: NDArray[np.int64], scores_N: NDArray[np.float64]
) -> Columns:
    return {
        "rank": ranks_K,
        "sample_id": [train.ids[row] for row in rows_K.tolist()],
        "label": [train.labels[row] for row in rows_K.tolist()],
        "score": scores_N[rows_K].astype(np.float32).astype(np.float64),
    }


def _replicates(samples: int, memory_bytes: int) -> int:
    """Resamples that a part of the budget holds; 100 where it can."""
    return min(REPLICATES, memory_bytes // _BOOTSTRAP_SHARE // (_REPLICATE_BYTES * samples))


def _affordable(config: AuditConfig, elements: int, missing: list[str]) -> InfluenceConfig:
    """Influence as asked for, or to first order where that is too much work."""
    step = config.influence.step
    if elements <= config.exact_elements or isinstance(step, FirstOrder):
        return config.influence
    radius = step.steps * step.learning_rate if isinstance(step, PublishedSteps) else step.radius
    missing.append(
        f"Influence is taken to first order: {elements:,} losses (confusion classes times training samples times "
        f"classes) are more than the {config.exact_elements:,} up to which it is computed by steps."
    )
    return replace(config.influence, step=FirstOrder(radius=radius), num_thetas=min(2, config.influence.num_thetas))
