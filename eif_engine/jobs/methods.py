"""Rank training samples by any method: empirical influence, or a baseline to compare it with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eif_engine.baselines.curvature import BLOCK_ROWS, Inverse, cg_inverse, ekfac_inverse
from eif_engine.baselines.gradient import distance_gradients, gradient_norms, losses, products
from eif_engine.baselines.published_if import recursion
from eif_engine.baselines.training_set import TrainingSet
from eif_engine.config import Distance, InfluenceConfig
from eif_engine.data.rows import FeatureRows
from eif_engine.jobs.rank import rank
from eif_engine.jobs.score import MEMORY_BYTES
from eif_engine.losses.base import ProxyLoss
from eif_engine.method_config import Method, MethodConfig
from eif_engine.models.head import Head
from eif_engine.types import Progress, Query, no_progress

Scores = Iterator[tuple[Query, NDArray[np.float64]]]


def rank_by(
    method: Method,
    *,
    head: Head,
    loss: ProxyLoss,
    train_features_NF: FeatureRows,
    train_labels_N: Tensor,
    test_features_MF: Tensor,
    queries: Sequence[Query],
    config: InfluenceConfig,
    method_config: MethodConfig | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float64,
    progress: Progress = no_progress,
    memory_bytes: int = MEMORY_BYTES,
) -> Scores:
    """Scores of every training sample for each query, one query after the other.

    Args:
        method: How samples are scored.
        head: The last linear layer.
        loss: The loss the model was trained with.
        train_features_NF: Features of the training samples, on any device.
        train_labels_N: Their class indices.
        test_features_MF: Features of the test samples.
        queries: The confusions; their rows are rows of test_features_MF.
        config: How empirical influence is computed; the baselines use its distance.
        method_config: Settings of the baselines; None are the defaults.
        device: Where.
        dtype: In what precision.
        progress: Called with queries done.
        memory_bytes: Of scores and working memory: how many queries are worked on together. It changes no score beyond
            rounding and, for conjugate gradient, its tolerance.

    Yields:
        The query, and its scores (N,): above 0 is harmful. LOSS and GRADIENT_NORM give every query the same.

    Raises:
        InvalidInput: The method does not work with this loss or these settings.
    """
    settings = method_config or MethodConfig()
    if method is Method.EIF:
        return rank(
            head=head,
            loss=loss,
            train_features_NF=train_features_NF,
            train_labels_N=train_labels_N,
            test_features_MF=test_features_MF,
            queries=queries,
            config=config,
            device=device,
            dtype=dtype,
            progress=progress,
            memory_bytes=memory_bytes,
        )
    data = TrainingSet(
        head=head.to(device=device, dtype=dtype),
        loss=loss.to(device=device, dtype=dtype),
        features=train_features_NF,
        labels_N=train_labels_N,
    )
    if method in {Method.LOSS, Method.GRADIENT_NORM}:
        return _same_for_all(queries, losses if method is Method.LOSS else gradient_norms, data, progress)
    return _influence(
        data,
        lambda: _inverse(method, data, settings),
        queries=queries,
        test_features_MF=test_features_MF,
        distance=config.distance,
        together=max(1, memory_bytes // _bytes_per_query(data)),
        progress=progress,
    )


def _same_for_all(
    queries: Sequence[Query], score: Callable[[TrainingSet], Tensor], data: TrainingSet, progress: Progress
) -> Scores:
    if not queries:
        return
    scores_N = score(data).numpy()
    for done, query in enumerate(queries, start=1):
        yield query, scores_N.copy()
        progress(done, len(queries))


def _influence(
    data: TrainingSet,
    make_inverse: Callable[[], Inverse],
    *,
    queries: Sequence[Query],
    test_features_MF: Tensor,
    distance: Distance,
    together: int,
    progress: Progress,
) -> Scores:
    """`grad d^T H^-1 grad L`, for some queries together."""
    if not queries:
        return
    inverse = make_inverse()
    for first in range(0, len(queries), together):
        chunk = queries[first : first + together]
        v_QDF = distance_gradients(data.head, test_features_MF, chunk, distance)
        scores_QN = products(data, inverse(v_QDF)).numpy()
        for done, (query, scores_N) in enumerate(zip(chunk, scores_QN, strict=True), start=first + 1):
            yield query, scores_N.copy()
            progress(done, len(queries))


def _inverse(method: Method, data: TrainingSet, settings: MethodConfig) -> Inverse:
    if len(data) == 0:
        return lambda v_QDF: v_QDF
    if method is Method.IF_CG:
        return cg_inverse(data, settings)
    if method is Method.IF_EKFAC:
        return ekfac_inverse(data, settings)
    return lambda v_QDF: recursion(data, v_QDF, scale=settings.recursion_scale, damping=settings.recursion_damping)


def _bytes_per_query(data: TrainingSet) -> int:
    """Scores, a dozen vectors of the size of the head (conjugate gradient keeps eight), and a batch of logits."""
    D, F = data.head.weight_DF.shape
    itemsize = data.head.weight_DF.element_size()
    batch = 4 * min(len(data), BLOCK_ROWS) * (data.loss.num_classes + 2 * D)
    return 8 * len(data) + itemsize * (12 * D * F + batch)
