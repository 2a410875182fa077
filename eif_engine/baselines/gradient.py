"""Scores that need gradients alone: plain loss, gradient norm, and products of gradients with a direction."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from eif_engine.baselines.training_set import TrainingSet, output_gradients
from eif_engine.config import Distance
from eif_engine.functional.confusion import query_gradient
from eif_engine.models.head import Head
from eif_engine.types import Query

_BLOCK_ELEMENTS = 1 << 24
"""Numbers of a block that are alive at a time: 128 MB of float64."""


def losses(data: TrainingSet) -> Tensor:
    """L (N,) of every sample, float64 on the CPU."""
    parts = [
        data.loss.per_sample(block.z_BD, block.labels_B).to("cpu", torch.float64)
        for _, block in data.blocks(_block_rows(data, queries=0))
    ]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)


def gradient_norms(data: TrainingSet) -> Tensor:
    """|grad L| (N,) in the head weight, float64 on the CPU: the gradient is `g x^T`, its norm `|g| |x|`."""
    parts = [
        (output_gradients(data.loss, block).norm(dim=1) * block.x_BF.norm(dim=1)).to("cpu", torch.float64)
        for _, block in data.blocks(_block_rows(data, queries=0))
    ]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)


def distance_gradients(head: Head, features_MF: Tensor, queries: Sequence[Query], distance: Distance) -> Tensor:
    """Gradients (Q, D, F) of d in the head weight, in the head's precision; rows of queries are rows of features_MF."""
    return torch.stack([_distance_gradient(head, features_MF, query, distance) for query in queries])


def products(data: TrainingSet, h_QDF: Tensor) -> Tensor:
    """`<h_q, grad L_n>` (Q, N), float64 on the CPU, for directions h of the head weight."""
    Q, D, F = h_QDF.shape
    found_QN = torch.empty(Q, len(data), dtype=torch.float64)
    for rows, block in data.blocks(_block_rows(data, queries=Q)):
        g_BD = output_gradients(data.loss, block)
        moved_BQD = (block.x_BF @ h_QDF.reshape(Q * D, F).T).view(-1, Q, D)
        found_QN[:, rows] = torch.linalg.vecdot(moved_BQD, g_BD[:, None]).T.to("cpu", torch.float64)
    return found_QN


def _distance_gradient(head: Head, features_MF: Tensor, query: Query, distance: Distance) -> Tensor:
    rows = [pair.row for pair in query.pairs] + [pair.neighbor for pair in query.pairs]
    x_RF = features_MF[rows].to(head.weight_DF)
    return query_gradient(head.embed(x_RF), distance).T @ x_RF


def _block_rows(data: TrainingSet, *, queries: int) -> int:
    D, F = data.head.weight_DF.shape
    return max(1, _BLOCK_ELEMENTS // (F + 3 * data.classes + (3 + queries) * D))
