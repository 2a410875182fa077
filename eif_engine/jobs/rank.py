"""Rank training samples by their influence on confusions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eif_engine.config import InfluenceConfig
from eif_engine.functional.influence import influence
from eif_engine.functional.theta import Theta, thetas
from eif_engine.losses.base import ProxyLoss
from eif_engine.models.head import Head
from eif_engine.types import Progress, Query, no_progress

BLOCK_ROWS = 65_536
"""Training samples scored at a time: the working set of a block stays near 1 GB at 512 features and 1,000 classes."""


def rank(
    *,
    head: Head,
    loss: ProxyLoss,
    train_features_NF: Tensor,
    train_labels_N: Tensor,
    test_features_MF: Tensor,
    queries: Sequence[Query],
    config: InfluenceConfig,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float64,
    progress: Progress = no_progress,
    block_rows: int = BLOCK_ROWS,
) -> Iterator[tuple[Query, NDArray[np.float64]]]:
    """Influence of every training sample on each query, one query at a time.

    Head maths runs in `dtype`; with float64 the scores agree to far better than the float32 that they are ordered by,
    so the ranking depends neither on block_rows nor on threads.

    Args:
        head: The last linear layer.
        loss: The loss the model was trained with.
        train_features_NF: Features of the training samples, on any device (a memory-mapped file will do).
        train_labels_N: Their class indices.
        test_features_MF: Features of the test samples.
        queries: The confusions; their rows are rows of test_features_MF.
        config: How influence is computed.
        device: Where.
        dtype: In what precision.
        progress: Called after each query.
        block_rows: Training samples scored at a time.

    Yields:
        The query, and its scores (N,): above 0 is harmful.
    """
    head, loss = head.to(device=device, dtype=dtype), loss.to(device=device, dtype=dtype)
    base = _Base(
        head,
        loss,
        x_NF=train_features_NF,
        labels_N=train_labels_N,
        device=torch.device(device),
        dtype=dtype,
        block_rows=block_rows,
    )
    for done, query in enumerate(queries, start=1):
        x_RF = pair_rows(query, test_features_MF).to(device, dtype)
        found = thetas(head, x_RF, config)
        yield query, base.scores(found, x_RF, normalize=config.normalize)
        progress(done, len(queries))


def pair_rows(query: Query, features_MF: Tensor) -> Tensor:
    """x_RF of a query: the features of its samples, then of their neighbours."""
    rows = [pair.row for pair in query.pairs] + [pair.neighbor for pair in query.pairs]
    return features_MF[rows]


def order(scores_N: NDArray[np.float64], sample_ids: Sequence[str]) -> NDArray[np.int64]:
    """The total order: highest score first, compared as float32; equal scores by sample id."""
    by_id = np.argsort(np.asarray(sample_ids, dtype=np.str_), kind="stable")
    by_score = np.argsort(-scores_N.astype(np.float32)[by_id], kind="stable")
    return by_id[by_score]


class _Base:
    """What does not depend on the query: embeddings and losses at theta_0, kept by block when they fit in one."""

    def __init__(
        self,
        head: Head,
        loss: ProxyLoss,
        *,
        x_NF: Tensor,
        labels_N: Tensor,
        device: torch.device,
        dtype: torch.dtype,
        block_rows: int,
    ) -> None:
        self._head, self._loss, self._x_NF, self._labels_N = head, loss, x_NF, labels_N
        self._device, self._dtype, self._block_rows = device, dtype, block_rows
        self._only = self._block(slice(0, len(x_NF))) if len(x_NF) <= block_rows else None

    def scores(self, found: Sequence[Theta], x_RF: Tensor, *, normalize: bool) -> NDArray[np.float64]:
        parts: list[Tensor] = []
        for start in range(0, len(self._x_NF), self._block_rows):
            rows = slice(start, start + self._block_rows)
            x_BF, z_BD, labels_B, base_loss_B = self._only or self._block(rows)
            part = influence(
                thetas=found,
                x_NF=x_BF,
                z_ND=z_BD,
                labels_N=labels_B,
                base_loss_N=base_loss_B,
                x_RF=x_RF,
                loss=self._loss,
                normalize=normalize,
            )
            parts.append(part.to("cpu", torch.float64))
        return torch.cat(parts).numpy() if parts else np.zeros(0)

    def _block(self, rows: slice) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x_BF = self._x_NF[rows].to(self._device, self._dtype)
        labels_B = self._labels_N[rows].to(self._device)
        z_BD = self._head.embed(x_BF)
        return x_BF, z_BD, labels_B, self._loss.per_sample(z_BD, labels_B)
