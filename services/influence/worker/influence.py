"""The stage `influence`: scores of every training sample, one query at a time, reduced as they come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eif_engine.errors import CheckpointIncompatible
from eif_engine.jobs.rank import rank
from eif_engine.jobs.ranking import RankingOrder
from eif_engine.losses.pml_bank import with_bank
from eif_engine.types import Query
from services.influence.spec import RankSpec
from services.influence.worker.estimate import scoring_bytes
from services.influence.worker.features import SplitFeatures
from services.influence.worker.inputs import JobModel
from services.influence.worker.job import Job
from services.influence.worker.mapped_file import mapped_file
from services.influence.worker.options import influence_config

STAGE = "influence"


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What is kept of the scores, as they are ordered: rounded to float32.

    Attributes:
        order_N: Rows of all samples by their score over all queries.
        total_N: Their scores over all queries, by row.
        rows_QK: Rows of the samples kept of each query, K = 2 top_k or all of them; in a file of the job's folder.
        scores_QK: Their scores.
        ranks_K: Their ranks, from 1; the same for every query.
    """

    order_N: NDArray[np.int64]
    total_N: NDArray[np.float32]
    rows_QK: NDArray[np.int64]
    scores_QK: NDArray[np.float32]
    ranks_K: NDArray[np.int64]


def run_influence(
    job: Job,
    spec: RankSpec,
    model: JobModel,
    *,
    train: SplitFeatures,
    labels_N: Tensor,
    test: SplitFeatures,
    queries: Sequence[Query],
) -> Scores:
    """Score every training sample for every query.

    Raises:
        CheckpointIncompatible: The model gives scores that are NaN or infinite.
    """
    order = RankingOrder(train.sample_ids)
    kept = _Kept(job.scratch, len(queries), min(2 * spec.top_k, len(train.rows)))
    total_N = np.zeros(len(train.rows), dtype=np.float64)
    train_NF = torch.from_numpy(train.x_NF)
    with job.progress.stage(STAGE, unit="queries", total=len(queries)) as report:
        ranked = rank(
            head=model.loaded.head,
            loss=with_bank(model.loaded.loss, model.loaded.head, train_NF, labels_N),
            train_features_NF=train_NF,
            train_labels_N=labels_N,
            test_features_MF=torch.from_numpy(test.x_NF),
            queries=queries,
            config=influence_config(spec.influence, spec.run.seed),
            device=model.device,
            progress=report,
            memory_bytes=scoring_bytes(model, spec, train=len(train.rows), queries=queries),
        )
        for place, (query, scores_N) in enumerate(ranked):
            total_N += scores_N
            rounded_N = _rounded(scores_N, query.query_id)
            kept.put(place, rounded_N, *order.ends(rounded_N, spec.top_k))
    rounded_N = _rounded(total_N, "all")
    return Scores(
        order_N=order.all(rounded_N),
        total_N=rounded_N,
        rows_QK=kept.rows_QK,
        scores_QK=kept.scores_QK,
        ranks_K=kept.ranks_K,
    )


class _Kept:
    """Both ends of every query's ranking, in files: there may be as many queries as test samples."""

    def __init__(self, scratch: Path, queries: int, width: int) -> None:
        self.rows_QK = mapped_file(scratch / "kept-rows", np.int64, (queries, width))
        self.scores_QK = mapped_file(scratch / "kept-scores", np.float32, (queries, width))
        self.ranks_K = np.zeros(width, dtype=np.int64)

    def put(
        self, query: int, scores_N: NDArray[np.float32], rows_K: NDArray[np.int64], ranks_K: NDArray[np.int64]
    ) -> None:
        self.rows_QK[query], self.scores_QK[query], self.ranks_K = rows_K, scores_N[rows_K], ranks_K


def _rounded(scores_N: NDArray[np.float64], query_id: str) -> NDArray[np.float32]:
    """Scores as they are compared and reported. Further digits depend on the machine."""
    with np.errstate(over="ignore"):
        rounded_N = scores_N.astype(np.float32)
    if not np.isfinite(rounded_N).all():
        raise CheckpointIncompatible(
            f"the influence on query {query_id!r} is NaN or infinite: weights or proxies of the model are far out of "
            "range, or influence.learning_rate or influence.radius is",
            query_id=query_id,
        )
    return rounded_N
