"""Rank training samples by influence through any of the network's parameters: one full pass for each theta.

for a query:        grad d through the network on its images, and from it the thetas
for a batch:        losses at every theta, less those at theta_0, which are computed once for all queries
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eif_engine.config import FirstOrder, InfluenceConfig, Metric
from eif_engine.data.features import exact_arithmetic
from eif_engine.errors import InvalidInput, MemoryExceeded
from eif_engine.functional.scope import Scope
from eif_engine.functional.scope_theta import QueryDistance, ScopeTheta, scope_thetas
from eif_engine.losses.base import ProxyLoss
from eif_engine.types import Progress, Query, no_progress

PAIRS_TOGETHER = 16
"""Pairs of a query that pass through the network together, forwards and backwards."""


def rank_scope(
    *,
    network: nn.Module,
    pattern: str,
    loss: ProxyLoss,
    train_batches: Iterable[Tensor],
    train_labels_N: Tensor,
    test_images: Callable[[Sequence[int]], Tensor],
    queries: Sequence[Query],
    config: InfluenceConfig,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float64,
    progress: Progress = no_progress,
    pairs_together: int = PAIRS_TOGETHER,
) -> Iterator[tuple[Query, NDArray[np.float64]]]:
    """Influence of every training sample on each query, one query after the other. The network is not changed.

    Args:
        network: Images to embeddings (B, D); of a backbone and a head, `models.network.Network`.
        pattern: Names of the parameters that theta moves, as of a file glob; `*` is all of them.
        loss: The loss the model was trained with.
        train_batches: Images (B, ...) of the training samples in their order, in batches of any size. Gone through once
            a query, and must give the same every time: not a generator.
        train_labels_N: Their class indices.
        test_images: Rows of the test set to their images (R, ...).
        queries: The confusions.
        config: How influence is computed. A FirstOrder step is one pass of forward-mode differentiation.
        device: Where.
        dtype: In what precision; differences of losses need float64 where the radius is short.
        progress: Called after each query.
        pairs_together: Pairs that pass through the network together: memory, not scores.

    Yields:
        The query, and its scores (N,): above 0 is harmful.

    Raises:
        InvalidInput: The pattern matches no parameter, the metric is not the identity, or the batches do not hold a
            sample for each label.
        MemoryExceeded: A batch does not fit on the GPU.
    """
    if config.metric is not Metric.IDENTITY:
        raise InvalidInput(
            f"metric {config.metric.value} is that of the head weight alone: use scope head, or metric identity",
            field="metric",
        )
    scope = Scope(network, pattern, device=torch.device(device), dtype=dtype)
    samples = _Samples(scope, loss.to(device=device, dtype=dtype), train_batches, train_labels_N.to(device))
    return _rank(samples, test_images, queries, config=config, pairs_together=pairs_together, progress=progress)


def _rank(
    samples: _Samples,
    test_images: Callable[[Sequence[int]], Tensor],
    queries: Sequence[Query],
    *,
    config: InfluenceConfig,
    pairs_together: int,
    progress: Progress,
) -> Iterator[tuple[Query, NDArray[np.float64]]]:
    score = samples.first_order if isinstance(config.step, FirstOrder) else samples.finite
    for done, query in enumerate(queries, start=1):
        with exact_arithmetic(samples.scope.theta_X.device), _out_of_memory():
            images = [test_images(rows) for rows in _portions(query, pairs_together)]
            found = scope_thetas(QueryDistance(samples.scope, images, config.distance), config)
            scores_N = score(found, normalize=config.normalize)
        yield query, scores_N.numpy()
        progress(done, len(queries))


def _portions(query: Query, size: int) -> Iterator[list[int]]:
    """Rows of the query, some pairs at a time: first the samples, then their neighbours."""
    for start in range(0, len(query.pairs), size):
        pairs = query.pairs[start : start + size]
        yield [pair.row for pair in pairs] + [pair.neighbor for pair in pairs]


class _Samples:
    """The training samples, and their losses at theta_0 once they are known."""

    def __init__(self, scope: Scope, loss: ProxyLoss, batches: Iterable[Tensor], labels_N: Tensor) -> None:
        self.scope = scope
        self._loss, self._batches, self._labels_N = loss, batches, labels_N
        self._base_N: Tensor | None = None

    def finite(self, found: Sequence[ScopeTheta], *, normalize: bool) -> Tensor:
        """Influence (N,) by the losses at the thetas."""
        start_X, base_N = self.scope.theta_X, self._base()
        scores_N = torch.zeros_like(base_N)
        if not found:
            return scores_N.cpu()
        with torch.no_grad():
            for rows, losses in self._read():
                for theta in found:
                    change_B = losses(start_X + theta.displacement_X) - base_N[rows]
                    scores_N[rows] += _weight(theta, normalize=normalize) / len(found) * change_B
        return scores_N.cpu()

    def first_order(self, found: Sequence[ScopeTheta], *, normalize: bool) -> Tensor:
        """Influence (N,) by the derivative of the losses along the one theta."""
        scores_N = torch.zeros(len(self._labels_N), dtype=torch.float64)
        for theta in found:
            _prepare_forward_mode()
            for rows, losses in self._read():
                with torch.no_grad():
                    slope_B: Tensor = torch.func.jvp(losses, (self.scope.theta_X,), (theta.displacement_X,))[1]
                scores_N[rows] = _weight(theta, normalize=normalize) * slope_B.to("cpu", torch.float64)
        return scores_N

    def _base(self) -> Tensor:
        if self._base_N is None:
            with torch.no_grad():
                parts = [losses(self.scope.theta_X) for _, losses in self._read()]
            self._base_N = torch.cat(parts) if parts else self.scope.theta_X.new_zeros(0, dtype=torch.float64)
        return self._base_N

    def _read(self) -> Iterator[tuple[slice, Callable[[Tensor], Tensor]]]:
        """Of each batch its rows, and its losses (B,) as a function of theta, in float64."""
        stop = 0
        for images_BCHW in self._batches:
            start, stop = stop, stop + len(images_BCHW)
            labels_B = self._labels_N[start:stop]
            if len(labels_B) < len(images_BCHW):
                break
            yield slice(start, stop), partial(self._losses, images_BCHW=images_BCHW, labels_B=labels_B)
        if stop != len(self._labels_N):
            least = "at least " if stop > len(self._labels_N) else ""
            raise InvalidInput(
                f"the batches of training images hold {least}{stop} samples, but there are {len(self._labels_N)} "
                "labels; they must be the same every time they are gone through",
                field="train_batches",
            )

    def _losses(self, theta_X: Tensor, *, images_BCHW: Tensor, labels_B: Tensor) -> Tensor:
        return self._loss.per_sample(self.scope.embed(theta_X, images_BCHW), labels_B).to(torch.float64)


def _weight(theta: ScopeTheta, *, normalize: bool) -> float:
    if not normalize:
        return theta.distance_change
    return theta.distance_change / theta.norm if theta.norm > 0 else 0.0


@contextmanager
def _out_of_memory() -> Iterator[None]:
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise MemoryExceeded("a batch of images does not fit on the GPU: give smaller ones") from error


@cache
def _prepare_forward_mode() -> None:
    """Have torch load what it loads at the first use of forward mode, and keep its own deprecations to itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.func.jvp(torch.sin, (torch.zeros(1),), (torch.zeros(1),))
