"""Counterfactual check: change the training set as a ranking says, retrain, and see whether the confusion comes apart.

Every arm starts from the checkpoint and sees the same batches; beside the arms stands `none`, retrained with nothing
changed. The gain of an arm is its distance (or recall@1) less that of `none`: above 0, a confused pair came apart
because of the change, and not because of the training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from eif_engine.config import Distance
from eif_engine.counterfactual_config import RetrainConfig
from eif_engine.errors import InvalidInput
from eif_engine.functional.confusion import query_distance
from eif_engine.functional.recall import recall_at_1
from eif_engine.functional.retrain import retrain_head
from eif_engine.jobs.counterfactual_report import NONE, ArmReport, CounterfactualReport, Measure
from eif_engine.jobs.intervention import Intervention, unchanged
from eif_engine.losses.base import ProxyLoss
from eif_engine.models.head import Head
from eif_engine.types import Progress, Query, no_progress

Retrain = Callable[[Intervention], Tensor]
"""Retrain from the checkpoint on a changed training set; gives the test embeddings (M, D) afterwards."""


def counterfactual(
    *,
    head: Head,
    loss: ProxyLoss,
    train_features_NF: Tensor,
    train_labels_N: Tensor,
    test_features_MF: Tensor,
    test_labels: Sequence[str],
    query: Query,
    arms: Mapping[str, Intervention | Sequence[Intervention]],
    config: RetrainConfig,
    distance: Distance = Distance.SQUARED_EUCLIDEAN,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    progress: Progress = no_progress,
) -> CounterfactualReport:
    """Retrain the head (and the proxies) once for every arm, from cached features.

    Args:
        head: The last linear layer at the checkpoint.
        loss: The loss the model was trained with.
        train_features_NF: Features of the training samples.
        train_labels_N: Their class indices, as given.
        test_features_MF: Features of the test samples.
        test_labels: Their labels.
        query: The confusion; its rows are rows of test_features_MF.
        arms: Changes to compare, by name. Several under one name are draws of the same arm (such as random ones),
            reported with mean and standard error.
        config: How to retrain.
        distance: Distance of a pair.
        device: Where.
        dtype: In what precision.
        progress: Called after each retraining.

    Raises:
        InvalidInput: An arm does not fit the training set, or retraining diverged.
    """
    head, loss = head.to(device=device, dtype=dtype), loss.to(device=device, dtype=dtype)
    x_NF, test_MF = train_features_NF.to(device, dtype), test_features_MF.to(device, dtype)

    def retrain(change: Intervention) -> Tensor:
        moved, _ = retrain_head(
            head,
            loss,
            x_NF=x_NF,
            labels_N=change.labels_N.to(device),
            weights_N=change.weights_N.to(device, dtype),
            config=config,
        )
        return moved.embed(test_MF)

    return compare_arms(
        retrain,
        checkpoint_MD=head.embed(test_MF),
        train_labels_N=train_labels_N,
        num_classes=loss.num_classes,
        test_labels=test_labels,
        query=query,
        arms=arms,
        distance=distance,
        progress=progress,
    )


def compare_arms(
    retrain: Retrain,
    *,
    checkpoint_MD: Tensor,
    train_labels_N: Tensor,
    num_classes: int,
    test_labels: Sequence[str],
    query: Query,
    arms: Mapping[str, Intervention | Sequence[Intervention]],
    distance: Distance = Distance.SQUARED_EUCLIDEAN,
    progress: Progress = no_progress,
) -> CounterfactualReport:
    """The check for any way of retraining, from test embeddings; the other arguments are those of `counterfactual`.

    Raises:
        InvalidInput: An arm does not fit the training set, or retraining diverged.
    """
    draws = {name: [arm] if isinstance(arm, Intervention) else list(arm) for name, arm in arms.items()}
    for name, changes in draws.items():
        _check(name, changes, len(train_labels_N), num_classes)
    draws = {NONE: [unchanged(train_labels_N)], **draws}
    measure = _Measurer(query, test_labels, distance, checkpoint_MD.device)
    total, done = sum(map(len, draws.values())), 0
    found: dict[str, list[tuple[float, float]]] = {}
    for name, changes in draws.items():
        found[name] = []
        for change in changes:
            found[name].append(measure.after(retrain(change), name))
            done += 1
            progress(done, total)
    base, start = found[NONE][0], measure.of(checkpoint_MD)
    return CounterfactualReport(
        query_id=query.query_id,
        distance=start[0],
        recall_at_1=start[1],
        arms={name: _report(found[name], base, changes[0], train_labels_N) for name, changes in draws.items()},
    )


class _Measurer:
    """Distance of a query and recall@1, from test embeddings."""

    def __init__(self, query: Query, test_labels: Sequence[str], distance: Distance, device: torch.device) -> None:
        codes = {label: code for code, label in enumerate(dict.fromkeys(test_labels))}
        self._labels_M = torch.tensor([codes[label] for label in test_labels], device=device)
        self._distance = distance
        self._rows_R = [pair.row for pair in query.pairs] + [pair.neighbor for pair in query.pairs]

    def of(self, z_MD: Tensor) -> tuple[float, float]:
        value = float(query_distance(z_MD[self._rows_R].double(), self._distance))
        return value, recall_at_1(z_MD, self._labels_M)

    def after(self, z_MD: Tensor, arm: str) -> tuple[float, float]:
        if not bool(torch.isfinite(z_MD.square().sum(dim=1)).all()):
            raise InvalidInput(
                f"retraining diverged in arm {arm!r}: embeddings have no finite length; lower learning_rate",
                field="learning_rate",
            )
        return self.of(z_MD)


def _report(
    found: Sequence[tuple[float, float]], base: tuple[float, float], first: Intervention, labels_N: Tensor
) -> ArmReport:
    distances, recalls = [each[0] for each in found], [each[1] for each in found]
    return ArmReport(
        draws=len(found),
        reweighted=first.reweighted(),
        relabelled=first.relabelled(labels_N),
        distance=Measure.of(distances),
        distance_gain=Measure.of([value - base[0] for value in distances]),
        recall_at_1=Measure.of(recalls),
        recall_gain=Measure.of([value - base[1] for value in recalls]),
    )


def _check(name: str, changes: Sequence[Intervention], samples: int, num_classes: int) -> None:
    if name == NONE:
        raise InvalidInput(f"an arm cannot be named {NONE!r}: that one is always there", field="arms")
    if not changes:
        raise InvalidInput(f"arm {name!r} has no draw", field="arms")
    for change in changes:
        weights_N, labels_N = change.weights_N, change.labels_N
        if weights_N.shape != (samples,) or labels_N.shape != (samples,):
            raise InvalidInput(
                f"arm {name!r} has {len(weights_N)} weights and {len(labels_N)} labels for {samples} samples",
                field="arms",
            )
        if not bool(torch.isfinite(weights_N).all() and (weights_N >= 0).all()):
            raise InvalidInput(f"arm {name!r} has a weight that is below 0 or not finite", field="arms")
        if samples and not (int(labels_N.min()) >= 0 and int(labels_N.max()) < num_classes):
            raise InvalidInput(f"arm {name!r} has a label outside of the {num_classes} classes", field="arms")
