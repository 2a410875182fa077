"""Labels made wrong before training: uniformly, or to the class that the sample resembles most."""

from __future__ import annotations

from enum import StrEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F


class Noise(StrEnum):
    """Where a flipped label comes from."""

    UNIFORM = "uniform"
    NEAREST = "nearest"


def flip(
    labels_N: NDArray[np.int64], *, share: float, noise: Noise, nearest_N: NDArray[np.int64], seed: int
) -> NDArray[np.int64]:
    """Labels of which `share` are wrong.

    Args:
        labels_N: The true ones.
        share: In [0, 1].
        noise: Uniform over the other classes, or `nearest_N`.
        nearest_N: Of each sample, the other class that it resembles most.
        seed: Decides which, and to what.
    """
    random = np.random.default_rng(seed)
    rows = random.choice(len(labels_N), size=round(share * len(labels_N)), replace=False)
    classes = int(labels_N.max()) + 1
    flipped = labels_N.copy()
    if noise is Noise.NEAREST:
        flipped[rows] = nearest_N[rows]
    else:
        flipped[rows] = (labels_N[rows] + random.integers(1, classes, size=len(rows))) % classes
    return flipped


def nearest_classes(z_ND: Tensor, labels_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of each sample, the other class whose centre is nearest; embeddings of a model trained on true labels."""
    zn_ND, classes_N = F.normalize(z_ND, dim=1), torch.from_numpy(labels_N)
    one_hot_NC = F.one_hot(classes_N).to(zn_ND)
    centers_CD = F.normalize(one_hot_NC.T @ zn_ND, dim=1)
    similarity_NC = (zn_ND @ centers_CD.T).masked_fill(one_hot_NC.bool(), -torch.inf)
    return similarity_NC.argmax(dim=1).numpy()
