"""Scores of every training sample for every query, in chunks of queries that keep to a memory budget.

    for a chunk of queries:                      as many as the budget holds scores of
        for a tile of samples:                   tiles run on threads, each on one core
            for a group of queries:              their products with the tile are one matrix product
                influence of the tile on the group

Tiles, groups and slices have sizes that depend on neither the budget nor the number of threads, and a tile is worked on
by one thread: the same numbers come out, bit by bit, for every budget and number of threads of a machine.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eif_engine.config import FirstOrder, InfluenceConfig, Metric
from eif_engine.data.rows import FeatureRows
from eif_engine.functional.curvature import Curvature, damped
from eif_engine.functional.influence import Group, Tile
from eif_engine.functional.theta import random_basis, thetas
from eif_engine.jobs.budget import Sizes
from eif_engine.jobs.tiles import run_tiles, tiles_of
from eif_engine.losses.base import ProxyLoss
from eif_engine.losses.cosine import CosineLoss
from eif_engine.models.head import Head
from eif_engine.types import Progress, Query, no_progress

MEMORY_BYTES = 1 << 30
"""Default budget."""


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Scores of some queries.

    Attributes:
        first: Place of the first of them among all.
        queries: The queries.
        scores_QN: Their scores, in the precision asked for; above 0 is harmful.
    """

    first: int
    queries: Sequence[Query]
    scores_QN: Tensor


class Scorer:
    """Influence of training samples on queries.

    Args:
        head: The last linear layer.
        loss: The loss the model was trained with.
        train_features: Features of the training samples, on any device.
        train_labels_N: Their class indices.
        config: How influence is computed.
        device: Where.
        dtype: In what precision; float32 is fast and right to about 1e-5 of the largest score.
        memory_bytes: What scores, thetas and working memory may take together, beside the arguments.
        keep_base: Keep embeddings and cosines between calls where the budget holds them, for queries that come one by
            one: those after the first take a fraction of its time.
    """

    def __init__(
        self,
        *,
        head: Head,
        loss: ProxyLoss,
        train_features: FeatureRows,
        train_labels_N: Tensor,
        config: InfluenceConfig,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float64,
        memory_bytes: int = MEMORY_BYTES,
        keep_base: bool = False,
    ) -> None:
        self._device, self._dtype, self._config = torch.device(device), dtype, config
        self._exact_head = head.to(device="cpu", dtype=torch.float64)
        self._head = head.to(device=device, dtype=dtype)
        self._loss = loss.to(device=device, dtype=dtype)
        self._representatives_PD = self._loss.representatives_PD if isinstance(self._loss, CosineLoss) else None
        self._features, self._labels_N = train_features, train_labels_N
        self._basis_JDF = random_basis(self._exact_head, config)
        self._memory_bytes = memory_bytes
        self._sizes = Sizes.of(self._head, self._loss, config, dtype=dtype)
        self._curvature: Curvature | None = None
        self._keep_base = keep_base
        self._kept: dict[int, tuple[Tile, Tensor]] = {}

    def chunks(
        self, queries: Sequence[Query], test_features_MF: Tensor, *, progress: Progress = no_progress
    ) -> Iterator[Chunk]:
        """Scores, some queries at a time.

        Args:
            queries: The confusions; their rows are rows of test_features_MF.
            test_features_MF: Features of the test samples.
            progress: Called with queries done, as tiles are.

        Raises:
            ValueError: The budget does not hold the scores of one query.
        """
        most_rows = max((2 * len(query.pairs) for query in queries), default=2)
        samples = len(self._features)
        needed = self._sizes.bytes_for(len(queries), samples=samples, most_rows=most_rows)
        if not self._keep_base or self._sizes.base_bytes(samples) + needed > self._memory_bytes:
            self._keep_base = False
            self._kept.clear()
        size = self._sizes.queries_per_chunk(self._memory_bytes, samples=samples, most_rows=most_rows)
        curvature = self._metric()
        for first in range(0, len(queries), size):
            chunk = queries[first : first + size]
            done = _Share(progress, first, len(chunk), len(queries))
            yield Chunk(
                first=first, queries=chunk, scores_QN=self._scores(chunk, test_features_MF, curvature, done.report)
            )

    def _metric(self) -> Curvature | None:
        if self._config.metric is Metric.IDENTITY:
            return None
        if self._curvature is None:
            self._curvature = self._measure_curvature()
        return self._curvature

    def _measure_curvature(self) -> Curvature:
        D, F = self._head.weight_DF.shape
        a_FF = torch.zeros(F, F, dtype=torch.float64)
        g_DD = torch.zeros(D, D, dtype=torch.float64)
        with torch.no_grad():
            for rows in tiles_of(len(self._features), self._sizes.tile_rows):
                tile, x_BF = self._tile(rows)
                slope_BD = tile.slopes()
                a_FF += (x_BF.T @ x_BF).to("cpu", torch.float64)
                g_DD += (slope_BD.T @ slope_BD).to("cpu", torch.float64)
        N = max(1, len(self._features))
        return damped(a_FF / N, g_DD / N, self._config.damping)

    def _scores(
        self,
        queries: Sequence[Query],
        test_features_MF: Tensor,
        curvature: Curvature | None,
        progress: Callable[[float], None],
    ) -> Tensor:
        with torch.no_grad():
            groups = self._groups(queries, test_features_MF, curvature)
            scores_QN = torch.empty(len(queries), len(self._features), dtype=self._dtype)
        first_order = isinstance(self._config.step, FirstOrder)

        def score(rows: slice) -> None:
            with torch.no_grad():
                tile, _ = self._tile(rows)
                slope_BD = tile.slopes() if first_order else None
                for places, group in groups:
                    found_GB = tile.scores(group) if slope_BD is None else tile.first_order(group, slope_BD)
                    scores_QN[places, rows] = found_GB[: len(places)].to("cpu")

        tiles = tiles_of(len(self._features), self._sizes.tile_rows)
        run_tiles(score, tiles, threads=self._sizes.threads, progress=progress)
        return scores_QN

    def _groups(
        self, queries: Sequence[Query], test_features_MF: Tensor, curvature: Curvature | None
    ) -> list[tuple[list[int], Group]]:
        """Queries with equally many rows, as many as a group takes; empty ones fill it up."""
        by_rows: dict[int, list[int]] = defaultdict(list)
        for place, query in enumerate(queries):
            by_rows[2 * len(query.pairs)].append(place)
        found = []
        for R, places in by_rows.items():
            size = self._sizes.group_queries(R)
            for start in range(0, len(places), size):
                some = places[start : start + size]
                x_GRF = torch.zeros(size, R, test_features_MF.shape[1], dtype=torch.float64)
                for row, place in enumerate(some):
                    x_GRF[row] = pair_rows(queries[place], test_features_MF)
                found.append((some, self._group(x_GRF, curvature)))
        return found

    def _group(self, x_GRF: Tensor, curvature: Curvature | None) -> Group:
        found = thetas(self._exact_head, x_GRF, self._config, basis_JDF=self._basis_JDF, curvature=curvature)
        return Group.of(found, self._representatives_PD, normalize=self._config.normalize, to=self._head.weight_DF)

    def _tile(self, rows: slice) -> tuple[Tile, Tensor]:
        if rows.start in self._kept:
            return self._kept[rows.start]
        x_BF = self._features[rows].to(self._device, self._dtype)
        tile = Tile(
            self._head,
            self._loss,
            x_BF,
            self._labels_N[rows].to(self._device),
            representatives_PD=self._representatives_PD,
            basis_JDF=self._basis_JDF.to(self._device, self._dtype),
            slice_rows=self._sizes.slice_rows,
            work_elements=self._sizes.work_elements,
        )
        if self._keep_base:
            self._kept[rows.start] = tile, x_BF
        return tile, x_BF


@dataclass(frozen=True)
class _Share:
    """Turns the share of a chunk that is done into queries done."""

    progress: Progress
    before: int
    count: int
    total: int

    def report(self, share: float) -> None:
        self.progress(self.before + int(share * self.count), self.total)


def pair_rows(query: Query, features_MF: Tensor) -> Tensor:
    """x_RF of a query: the features of its samples, then of their neighbours."""
    rows = [pair.row for pair in query.pairs] + [pair.neighbor for pair in query.pairs]
    return features_MF[rows]
