"""The neighbour searches of an audit in feature space: one a split, shared by label issues, duplicates and outliers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from eif_engine.audit_config import AuditConfig
from eif_engine.functional.agreement import Neighborhood, neighborhood
from eif_engine.functional.duplicates import nearest_across
from eif_engine.jobs.audit_data import AuditData
from eif_engine.jobs.one_core import on_one_core_each
from eif_engine.types import Progress

_PIECE = 1024
"""Rows whose neighbours are one piece of work."""


@dataclass(frozen=True, kw_only=True)
class Neighbors:
    """Neighbours by penultimate features (embeddings without a model), exact.

    Attributes:
        train: Of each training sample among the training samples.
        test: Of each test sample among the test samples.
        across_M: The training sample nearest to each test sample.
        across_distance_M: Squared distance to it.
    """

    train: Neighborhood
    test: Neighborhood
    across_M: Tensor
    across_distance_M: Tensor


def find_neighbors(data: AuditData, config: AuditConfig, threads: int, progress: Progress) -> Neighbors:
    """Every search, each piece on one core."""
    train_NF, test_MF = (F.normalize(part.features_NF, dim=1) for part in (data.train, data.test))
    count = max(config.issues.num_neighbors, config.outlier_neighbors)
    pieces = len(train_NF) // _PIECE + 2 * (len(test_MF) // _PIECE) + 3
    done = 0

    def counted(within: int, _: int) -> None:
        progress(min(done + within, pieces), pieces)

    def search(vn_NF: Tensor) -> Neighborhood:
        parts = torch.split(torch.arange(len(vn_NF), device=vn_NF.device), _PIECE)
        found = on_one_core_each(
            lambda rows_B: neighborhood(vn_NF, rows_B, count, unit=True, block_bytes=config.issues.block_bytes),
            parts,
            threads=threads,
            progress=counted,
        )
        return Neighborhood.joined(found)

    train = search(train_NF)
    done += len(train_NF) // _PIECE + 1
    test = search(test_MF)
    done += len(test_MF) // _PIECE + 1
    across = on_one_core_each(
        lambda vn_BF: nearest_across(vn_BF, train_NF), torch.split(test_MF, _PIECE), threads=threads, progress=counted
    )
    return Neighbors(
        train=train,
        test=test,
        across_M=torch.cat([row_B for row_B, _ in across]),
        across_distance_M=torch.cat([distance_B for _, distance_B in across]),
    )
