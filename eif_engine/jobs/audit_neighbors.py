"""The neighbour searches of an audit: one a split and space, shared by label issues, duplicates and outliers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from eif_engine.audit_config import AuditConfig
from eif_engine.functional.agreement import Neighborhood, neighborhood
from eif_engine.functional.duplicates import nearest_across
from eif_engine.functional.similarity_bound import SimilarityBound
from eif_engine.jobs.audit_data import AuditData
from eif_engine.jobs.one_core import on_one_core_each
from eif_engine.types import Progress

_PIECE = 1024
"""Rows whose neighbours are one piece of work."""

_BLOCK_BYTES = 64 * 2**20
"""Similarities of a block, for each thread."""

Out = TypeVar("Out")


@dataclass(frozen=True, kw_only=True)
class Neighbors:
    """Neighbours by penultimate features (embeddings without a model) unless said, exact.

    Attributes:
        train: Of each training sample among the training samples.
        test: Of each test sample among the test samples.
        train_embedding: Of each training sample by embeddings.
        test_embedding: Of each test sample by embeddings.
        across_M: The training sample nearest to each test sample.
        across_distance_M: Squared distance to it.
    """

    train: Neighborhood
    test: Neighborhood
    train_embedding: Neighborhood
    test_embedding: Neighborhood
    across_M: Tensor
    across_distance_M: Tensor


def find_neighbors(data: AuditData, config: AuditConfig, threads: int, progress: Progress) -> Neighbors:
    """Every search, each piece on one core."""
    search = _Search(config, threads, progress, pieces=_pieces(data))
    train, test, across = _by_features(data, search)
    embedded = data.model is not None
    return Neighbors(
        train=train,
        test=test,
        train_embedding=search.within(F.normalize(data.train.embeddings_ND, dim=1)) if embedded else train,
        test_embedding=search.within(F.normalize(data.test.embeddings_ND, dim=1)) if embedded else test,
        across_M=torch.cat([row_B for row_B, _ in across]),
        across_distance_M=torch.cat([distance_B for _, distance_B in across]),
    )


def _by_features(data: AuditData, search: _Search) -> tuple[Neighborhood, Neighborhood, list[tuple[Tensor, Tensor]]]:
    """Within both splits and across, by features; their normalised copies are gone when embeddings get theirs."""
    train_NF, test_MF = (F.normalize(part.features_NF, dim=1) for part in (data.train, data.test))
    across = search.run(lambda vn_BF: nearest_across(vn_BF, train_NF), torch.split(test_MF, _PIECE))
    return search.within(train_NF), search.within(test_MF), across


def _pieces(data: AuditData) -> int:
    """Pieces of all searches."""
    train, test = (math.ceil(len(part) / _PIECE) for part in (data.train, data.test))
    return test + (train + test) * (1 if data.model is None else 2)


class _Search:
    """Runs searches, and counts pieces over all of them."""

    def __init__(self, config: AuditConfig, threads: int, progress: Progress, *, pieces: int) -> None:
        self._config, self._threads, self._progress = config, threads, progress
        self._done, self._pieces = 0, pieces

    def within(self, vn_NF: Tensor) -> Neighborhood:
        """The neighbours of every row among the others."""
        count = max(self._config.issues.num_neighbors, self._config.outlier_neighbors)
        bound = SimilarityBound.fitted(vn_NF, count)

        def search(rows_B: Tensor) -> Neighborhood:
            return neighborhood(vn_NF, rows_B, count, unit=True, bound=bound, block_bytes=_BLOCK_BYTES)

        return Neighborhood.joined(self.run(search, torch.split(torch.arange(len(vn_NF), device=vn_NF.device), _PIECE)))

    def run(self, work: Callable[[Tensor], Out], pieces: Sequence[Tensor]) -> list[Out]:
        """`work` of every piece, each on one core."""
        found = on_one_core_each(
            work,
            pieces,
            threads=self._threads,
            progress=lambda done, _: self._progress(self._done + done, self._pieces),
        )
        self._done += len(pieces)
        return found
