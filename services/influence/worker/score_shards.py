"""Scores of one range of training samples for every query, reduced to what a ranking keeps.

A range is scored as it would be among all samples: ranges begin where tiles of the scorer do, each sample's sum over
queries is taken in their order, and the samples kept of a range hold those that all samples together would keep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from eif_engine.errors import CheckpointIncompatible
from eif_engine.jobs.rank import rank
from eif_engine.jobs.ranking import RankingOrder
from eif_engine.losses.pml_bank import with_bank
from eif_engine.types import Query
from services.influence.spec import RankSpec
from services.influence.worker.estimate import scoring_bytes
from services.influence.worker.job import Job
from services.influence.worker.mapped_file import mapped_file
from services.influence.worker.options import influence_config
from services.influence.worker.score_store import ScoreArrays, load_scores, store_scores
from services.influence.worker.workplace import Workplace


@dataclass(frozen=True, kw_only=True)
class ScoringTask:
    """What all ranges have in common.

    Attributes:
        spec: The job's.
        queries: The confusions; their rows are rows of test_MF.
        test_MF: Features of test samples.
        keep: Results are kept in the object store, for runs to come.
    """

    spec: RankSpec
    queries: Sequence[Query]
    test_MF: NDArray[np.float32]
    keep: bool


@dataclass(frozen=True, kw_only=True)
class TrainRange:
    """Some training samples.

    Attributes:
        first: Row of the first of them among all.
        sample_ids: Their ids.
        labels_N: Their classes.
        x_NF: Their features.
    """

    first: int
    sample_ids: Sequence[str]
    labels_N: NDArray[np.int64]
    x_NF: NDArray[np.float32]

    @property
    def name(self) -> str:
        """For people."""
        return f"scores of {len(self.sample_ids):,} samples from {self.sample_ids[0]!r} on"


@dataclass(frozen=True, kw_only=True)
class RangeScores:
    """What came out of a range.

    Attributes:
        first: Row of its first sample among all.
        count: Its samples.
        arrays: The scores; None while they lie in the object store.
        stored: Where they are kept; empty where they are not.
        sha256: Of the stored object.
        known: They were there from an earlier run.
    """

    first: int
    count: int
    arrays: ScoreArrays | None
    stored: str = ""
    sha256: str = ""
    known: bool = False

    def put_away(self, place: Workplace) -> Self:  # noqa: ARG002  it has been stored where it was made
        """Leave it in the object store, where it is kept."""
        return replace(self, arrays=None) if self.stored else self

    def bring_back(self, job: Job) -> Self:
        """Fetch it, and check that it is what was stored."""
        if self.arrays is not None:
            return self
        return replace(self, arrays=load_scores(job, self.stored, sha256=self.sha256))


def score_range(task: ScoringTask, place: Workplace, samples: TrainRange) -> RangeScores:
    """Scores of a range. Raises CheckpointIncompatible when they are NaN or infinite."""
    found = RangeScores(first=samples.first, count=len(samples.sample_ids), arrays=None)
    if not task.keep:
        return replace(found, arrays=_score(task, place, samples))
    kept = store_scores(place, task.spec, _inputs(task, samples), lambda: _score(task, place, samples))
    return replace(found, arrays=kept.arrays, stored=kept.uri, sha256=kept.sha256, known=kept.known)


def _inputs(task: ScoringTask, samples: TrainRange) -> dict[str, object]:
    """Everything that the scores depend on, beside model, options and machine."""
    pairs = [[(pair.row, pair.neighbor) for pair in query.pairs] for query in task.queries]
    return {
        "queries": [(query.query_id, str(query.kind)) for query in task.queries],
        "pairs": pairs,
        "sample_ids": list(samples.sample_ids),
        "test": task.test_MF,
        "labels": samples.labels_N,
        "train": samples.x_NF,
    }


def _score(task: ScoringTask, place: Workplace, samples: TrainRange) -> ScoreArrays:
    model, spec, count = place.model, task.spec, len(samples.sample_ids)
    order = RankingOrder(samples.sample_ids)
    train_NF, labels_N = _tensor(samples.x_NF), _tensor(samples.labels_N)
    shape = (len(task.queries), min(2 * spec.top_k, count))
    rows_QK = mapped_file(place.job.scratch / f"scores-{samples.first}-rows", np.int64, shape)
    scores_QK = mapped_file(place.job.scratch / f"scores-{samples.first}", np.float32, shape)
    total_N = np.zeros(count, dtype=np.float64)
    ranked = rank(
        head=model.loaded.head,
        loss=with_bank(model.loaded.loss, model.loaded.head, train_NF, labels_N),
        train_features_NF=train_NF,
        train_labels_N=labels_N,
        test_features_MF=_tensor(task.test_MF),
        queries=task.queries,
        config=influence_config(spec.influence, spec.run.seed),
        device=model.device,
        progress=lambda done, _total: place.advance(done),
        memory_bytes=scoring_bytes(model, spec, train=count, queries=task.queries),
    )
    for number, (query, scores_N) in enumerate(ranked):
        total_N += scores_N
        rounded_N = rounded(scores_N, query.query_id)
        rows_QK[number], _ = order.ends(rounded_N, spec.top_k)
        scores_QK[number] = rounded_N[rows_QK[number]]
    return ScoreArrays(total_N=total_N, rows_QK=rows_QK, scores_QK=scores_QK)


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    """Without a copy, unless the array is another process's to write."""
    return torch.from_numpy(np.require(array, requirements="W"))


def rounded(scores_N: NDArray[np.float64], query_id: str) -> NDArray[np.float32]:
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
