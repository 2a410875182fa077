"""Hold rankings against retraining, confusion by confusion, beside random changes of the same size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eif_engine.config import Distance, RelabelConfig
from eif_engine.counterfactual_config import Action, ProofConfig
from eif_engine.errors import InvalidInput
from eif_engine.jobs.counterfactual import counterfactual
from eif_engine.jobs.counterfactual_report import CounterfactualReport
from eif_engine.jobs.intervention import Intervention, relabel, reweight, shuffled
from eif_engine.jobs.relabel import suggest
from eif_engine.losses.base import ProxyLoss
from eif_engine.models.head import Head
from eif_engine.types import Progress, Query, no_progress

RANDOM = "random"
"""The arm of random changes, of the size of the first ranking's."""


def prove(
    *,
    head: Head,
    loss: ProxyLoss,
    train_features_NF: Tensor,
    train_labels_N: Tensor,
    test_features_MF: Tensor,
    test_labels: Sequence[str],
    queries: Sequence[Query],
    rankings: Mapping[str, Sequence[NDArray[np.float64]]],
    config: ProofConfig,
    distance: Distance = Distance.SQUARED_EUCLIDEAN,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    progress: Progress = no_progress,
) -> Iterator[CounterfactualReport]:
    """A report a query, in their order.

    Args:
        head: The last linear layer at the checkpoint.
        loss: The loss the model was trained with.
        train_features_NF: Features of the training samples.
        train_labels_N: Their class indices, as given.
        test_features_MF: Features of the test samples.
        test_labels: Their labels.
        queries: The confusions; their rows are rows of test_features_MF.
        rankings: By name, for every query the scores (N,): above 0 is harmful.
        config: What is changed and how the head is retrained.
        distance: Distance of a pair.
        device: Where.
        dtype: In what precision.
        progress: Called after each query.

    Raises:
        InvalidInput: A ranking has not one row of N scores a query, or retraining diverged.
    """
    for name, rows in rankings.items():
        if len(rows) != len(queries):
            raise InvalidInput(f"ranking {name!r} has {len(rows)} rows for {len(queries)} queries", field="rankings")
    change: _Reweight | _Relabel
    if config.action is Action.REWEIGHT:
        change = _Reweight(train_labels_N, config, loss.num_classes)
    else:
        change = _Relabel(train_labels_N, config, loss.num_classes, train_features_NF)
    for place, query in enumerate(queries):
        arms: dict[str, Intervention | Sequence[Intervention]] = {
            name: change.ranked(rows[place]) for name, rows in rankings.items()
        }
        first = next(iter(arms.values()), None)
        if isinstance(first, Intervention) and config.random_draws:
            arms[RANDOM] = [
                change.random(first, seed=_seed(config, place, draw)) for draw in range(config.random_draws)
            ]
        yield counterfactual(
            head=head,
            loss=loss,
            train_features_NF=train_features_NF,
            train_labels_N=train_labels_N,
            test_features_MF=test_features_MF,
            test_labels=test_labels,
            query=query,
            arms=arms,
            config=config.retrain,
            distance=distance,
            device=device,
            dtype=dtype,
        )
        progress(place + 1, len(queries))


def _seed(config: ProofConfig, place: int, draw: int) -> int:
    """One seed a query and draw."""
    return (config.retrain.seed * 1_000_003 + place) * 1_000_003 + draw


class _Reweight:
    """Both ends of a ranking get other weights."""

    def __init__(self, labels_N: Tensor, config: ProofConfig, num_classes: int) -> None:
        self._labels_N, self._config, self._num_classes = labels_N, config, num_classes

    def ranked(self, scores_N: NDArray[np.float64]) -> Intervention:
        return reweight(scores_N, self._labels_N, self._config.reweighting)

    def random(self, like: Intervention, *, seed: int) -> Intervention:
        return shuffled(like, self._labels_N, num_classes=self._num_classes, seed=seed)


class _Relabel:
    """The harmful end of a ranking gets the labels of its neighbours; at random: other samples, by the same rule."""

    def __init__(self, labels_N: Tensor, config: ProofConfig, num_classes: int, features_NF: Tensor) -> None:
        self._labels_N, self._config, self._num_classes = labels_N, config, num_classes
        labels = [str(label) for label in labels_N.tolist()]
        ids = [str(row) for row in range(len(labels))]
        found = suggest(vectors_NF=features_NF, labels=labels, sample_ids=ids, config=RelabelConfig())
        changed = {
            int(each.sample_id): int(each.suggested_label) for each in found if each.suggested_label != each.label
        }
        self._new_labels = dict(sorted(changed.items()))

    def ranked(self, scores_N: NDArray[np.float64]) -> Intervention:
        harmful = reweight(scores_N, self._labels_N, self._config.reweighting)
        rows = set(np.flatnonzero((harmful.weights_N != 1).numpy() & (scores_N > 0)).tolist())
        return self._relabel([row for row in self._new_labels if row in rows])

    def random(self, like: Intervention, *, seed: int) -> Intervention:
        rows = list(self._new_labels)
        drawn = np.random.default_rng(seed).choice(len(rows), size=like.relabelled(self._labels_N), replace=False)
        return self._relabel([rows[place] for place in drawn.tolist()])

    def _relabel(self, rows: Sequence[int]) -> Intervention:
        new_labels = {row: self._new_labels[row] for row in rows}
        return relabel(new_labels, self._labels_N, num_classes=self._num_classes)
