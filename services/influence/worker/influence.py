"""The stage `influence`: scores of every training sample for every query, range by range of samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eif_engine.config import Metric
from eif_engine.jobs.budget import Sizes
from eif_engine.jobs.ranking import RankingOrder
from eif_engine.losses.pml_bank import PmlBankLoss
from eif_engine.types import Pair, Query
from services.influence.spec import RankSpec
from services.influence.worker.executor import Executor, InProcessExecutor
from services.influence.worker.executors import open_executor
from services.influence.worker.features import SplitFeatures
from services.influence.worker.inputs import JobModel
from services.influence.worker.job import Job
from services.influence.worker.mapped_file import mapped_file
from services.influence.worker.options import influence_config
from services.influence.worker.score_shards import RangeScores, ScoringTask, TrainRange, rounded, score_range
from services.influence.worker.workplace import Workplace

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
    samples = len(train.rows)
    size = _range_size(job, spec, model, samples)
    starts = range(0, samples, size)
    ranges = (_range(train, labels_N, slice(start, start + size)) for start in starts)
    ends = _Ends(job, RankingOrder(train.sample_ids), queries=len(queries), samples=samples, top_k=spec.top_k)
    total_N, done = np.zeros(samples, dtype=np.float64), 0
    task = _task(spec, queries, test, keep=len(starts) > 1)
    with job.progress.stage(STAGE, unit="queries", total=len(queries)) as report:

        def advance(count: int) -> None:
            report((done * len(queries) + count) // max(1, len(starts)), len(queries))

        place = Workplace(job=job, model=model, known=_no_image, advance=advance)
        with _executor(place, shards=len(starts)) as executor:
            results = executor.map(partial(score_range, task), ranges, count=len(starts))
            with closing(results):
                for found in results:
                    total_N[found.first : found.first + found.count] = ends.add(found)
                    if found.known:
                        job.totals.shard_attempt("skipped")
                    done += 1
                    advance(0)
    rounded_N = rounded(total_N, "all")
    return Scores(
        order_N=ends.order.all(rounded_N),
        total_N=rounded_N,
        rows_QK=ends.rows_QK,
        scores_QK=ends.scores_QK,
        ranks_K=ends.ranks_K,
    )


class _Ends:
    """Both ends of every query's ranking, in files: there may be as many queries as test samples."""

    def __init__(self, job: Job, order: RankingOrder, *, queries: int, samples: int, top_k: int) -> None:
        self.order = order
        self._scratch, self._shape, self._top_k = job.scratch, (queries, min(2 * top_k, samples)), top_k
        self._samples, self._held = samples, 0
        self.rows_QK = np.zeros((queries, 0), dtype=np.int64)
        self.scores_QK = np.zeros((queries, 0), dtype=np.float32)

    @property
    def ranks_K(self) -> NDArray[np.int64]:
        """Ranks of what is kept, once all ranges are in."""
        width = self._shape[1]
        if width == self._samples:
            return np.arange(1, width + 1)
        head = np.arange(1, self._top_k + 1)
        return np.concatenate([head, self._samples - self._top_k + head])

    def add(self, found: RangeScores) -> NDArray[np.float64]:
        """Take what a range has kept; returns the sums of its samples."""
        if found.arrays is None:
            raise ValueError("scores are brought back before they are used")
        arrays = found.arrays
        if found.count == self._samples:
            self.rows_QK, self.scores_QK = arrays.rows_QK, arrays.scores_QK
            return arrays.total_N
        if not self._held:
            self.rows_QK = mapped_file(self._scratch / "kept-rows", np.int64, self._shape)
            self.scores_QK = mapped_file(self._scratch / "kept-scores", np.float32, self._shape)
        for query in range(self._shape[0]):
            self._merge(query, arrays.rows_QK[query] + found.first, arrays.scores_QK[query])
        self._held = min(self._held + arrays.rows_QK.shape[1], self._shape[1])
        arrays.discard()
        return arrays.total_N

    def _merge(self, query: int, new_rows: NDArray[np.int64], new_scores: NDArray[np.float32]) -> None:
        rows = np.concatenate([self.rows_QK[query, : self._held], new_rows])
        scores = np.concatenate([self.scores_QK[query, : self._held], new_scores])
        places = self.order.places(rows, scores)
        if len(places) > self._shape[1]:
            places = np.concatenate([places[: self._top_k], places[-self._top_k :]])
        self.rows_QK[query, : len(places)] = rows[places]
        self.scores_QK[query, : len(places)] = scores[places]


def _range_size(job: Job, spec: RankSpec, model: JobModel, samples: int) -> int:
    """Samples of a range, in whole tiles; all of them where each one's score depends on all the others."""
    config = influence_config(spec.influence, spec.run.seed)
    if config.metric is not Metric.IDENTITY or isinstance(model.loaded.loss, PmlBankLoss):
        return max(1, samples)
    head = model.loaded.head.to(device=model.device, dtype=torch.float64)
    tile = Sizes.of(head, model.loaded.loss, config, dtype=torch.float64).tile_rows
    return -(-job.settings.score_shard_samples // tile) * tile


def _range(train: SplitFeatures, labels_N: Tensor, rows: slice) -> TrainRange:
    return TrainRange(
        first=rows.start,
        sample_ids=train.sample_ids[rows],
        labels_N=labels_N[rows].numpy(),
        x_NF=np.asarray(train.x_NF[rows]),  # of a mapped file the part that is used
    )


def _task(spec: RankSpec, queries: Sequence[Query], test: SplitFeatures, *, keep: bool) -> ScoringTask:
    """With the test samples that queries are about, where it may travel."""
    if not keep:
        return ScoringTask(spec=spec, queries=queries, test_MF=test.x_NF, keep=False)
    used = sorted({row for query in queries for pair in query.pairs for row in (pair.row, pair.neighbor)})
    place_of = {row: place for place, row in enumerate(used)}

    def moved(pair: Pair) -> Pair:
        return replace(pair, row=place_of[pair.row], neighbor=place_of[pair.neighbor])

    return ScoringTask(
        spec=spec,
        queries=[replace(query, pairs=tuple(moved(pair) for pair in query.pairs)) for query in queries],
        test_MF=np.asarray(test.x_NF[used]),
        keep=True,
    )


@contextmanager
def _executor(place: Workplace, *, shards: int) -> Iterator[Executor]:
    """One range alone is scored here, where its features are."""
    if shards <= 1:
        yield InProcessExecutor(place)
        return
    with open_executor(place, known=np.zeros(0, dtype="S32")) as executor:
        yield executor


def _no_image(digests_N: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return np.zeros(len(digests_N), dtype=np.bool_)
