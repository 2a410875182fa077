"""What a counterfactual check changes about the training set: weights of samples, their labels, or both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eif_engine.counterfactual_config import Reweighting
from eif_engine.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class Intervention:
    """A changed training set.

    Attributes:
        weights_N: Weight of each sample's loss, at least 0.
        labels_N: Class index of each sample.
    """

    weights_N: Tensor
    labels_N: Tensor

    def reweighted(self) -> int:
        """How many samples have a weight other than 1."""
        return int((self.weights_N != 1).sum())

    def relabelled(self, labels_N: Tensor) -> int:
        """How many samples have another label than given here."""
        return int((self.labels_N != labels_N).sum())


def unchanged(labels_N: Tensor) -> Intervention:
    """The training set as it is."""
    return Intervention(weights_N=torch.ones(len(labels_N), dtype=torch.float64), labels_N=labels_N)


def reweight(scores_N: NDArray[np.float64], labels_N: Tensor, reweighting: Reweighting) -> Intervention:
    """Weights by a ranking: scores above 0 are harmful, below 0 helpful; equal scores go to the lower row.

    The ends never overlap: a sample is taken for its own sign only, so fewer than `top_k` where a sign has fewer.

    Raises:
        InvalidInput: The scores are not (N,) finite numbers.
    """
    if scores_N.shape != (len(labels_N),) or not np.isfinite(scores_N).all():
        raise InvalidInput(
            f"a ranking needs {len(labels_N)} finite scores, one a training sample; these have shape {scores_N.shape}",
            field="scores",
        )
    weights_N = torch.ones(len(labels_N), dtype=torch.float64)
    for sign, weight in ((1.0, reweighting.harmful), (-1.0, reweighting.helpful)):
        ordered = np.argsort(-sign * scores_N, kind="stable")[: reweighting.top_k]
        weights_N[ordered[sign * scores_N[ordered] > 0]] = weight
    return Intervention(weights_N=weights_N, labels_N=labels_N)


def relabel(new_labels: Mapping[int, int], labels_N: Tensor, *, num_classes: int) -> Intervention:
    """Other labels for some rows.

    Raises:
        InvalidInput: A row or a class index is out of range.
    """
    changed_N = labels_N.clone()
    for row, label in new_labels.items():
        if not (0 <= row < len(labels_N) and 0 <= label < num_classes):
            raise InvalidInput(
                f"row {row} cannot get label {label}: there are {len(labels_N)} samples and {num_classes} classes",
                field="labels",
            )
        changed_N[row] = label
    return Intervention(weights_N=unchanged(labels_N).weights_N, labels_N=changed_N)


def shuffled(intervention: Intervention, labels_N: Tensor, *, num_classes: int, seed: int) -> Intervention:
    """The same change at random: as many samples of each weight, and as many relabelled, elsewhere.

    A relabelled sample gets a class drawn evenly from the others. What was both reweighted and relabelled stays so.
    """
    generator = torch.Generator().manual_seed(seed)
    order_N = torch.randperm(len(labels_N), generator=generator)
    moved_N = (intervention.labels_N != labels_N)[order_N]
    other_N = labels_N
    if num_classes > 1:
        other_N = (labels_N + torch.randint(1, num_classes, (len(labels_N),), generator=generator)) % num_classes
    return Intervention(weights_N=intervention.weights_N[order_N], labels_N=torch.where(moved_N, other_N, labels_N))
