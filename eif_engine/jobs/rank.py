"""Rank training samples by their influence on confusions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eif_engine.config import InfluenceConfig
from eif_engine.data.rows import FeatureRows
from eif_engine.jobs.ranking import RankingOrder
from eif_engine.jobs.score import MEMORY_BYTES, Scorer
from eif_engine.losses.base import ProxyLoss
from eif_engine.models.head import Head
from eif_engine.types import Progress, Query, no_progress


def rank(
    *,
    head: Head,
    loss: ProxyLoss,
    train_features_NF: FeatureRows,
    train_labels_N: Tensor,
    test_features_MF: Tensor,
    queries: Sequence[Query],
    config: InfluenceConfig,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float64,
    progress: Progress = no_progress,
    memory_bytes: int = MEMORY_BYTES,
) -> Iterator[tuple[Query, NDArray[np.float64]]]:
    """Influence of every training sample on each query, one query after the other.

    Head maths runs in `dtype`. Neither the budget nor the number of threads changes the scores of a machine; with
    float64 those of two machines agree to far better than the float32 that they are ordered by.

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
        progress: Called with queries done, as parts of them are.
        memory_bytes: Of scores, thetas and working memory, beside the arguments.

    Yields:
        The query, and its scores (N,): above 0 is harmful.

    Raises:
        ValueError: The budget does not hold the scores of one query.
    """
    scorer = Scorer(
        head=head,
        loss=loss,
        train_features=train_features_NF,
        train_labels_N=train_labels_N,
        config=config,
        device=device,
        dtype=dtype,
        memory_bytes=memory_bytes,
    )
    for chunk in scorer.chunks(queries, test_features_MF, progress=progress):
        for query, scores_N in zip(chunk.queries, chunk.scores_QN, strict=True):
            yield query, scores_N.double().numpy()


def order(scores_N: NDArray[np.float64], sample_ids: Sequence[str]) -> NDArray[np.int64]:
    """The total order: highest score first, compared as float32; equal scores by sample id."""
    return RankingOrder(sample_ids).all(scores_N.astype(np.float32))
