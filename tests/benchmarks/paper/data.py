"""Omniglot as tensors, with the true labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eif_engine.data.images import decode_image
from eif_engine.data.preprocessing import ImageMode, Preprocessing
from services.demo.data import load

SIDE = 32
GRAY = Preprocessing(mode=ImageMode.GRAY, resize=(SIDE, SIDE), invert=True, mean=(0.2,), std=(0.35,))


@dataclass(frozen=True, kw_only=True)
class Split:
    """A class-disjoint split with the true labels.

    Attributes:
        name: Of the data.
        train_NCHW: Images to train on.
        train_labels_N: Their true class indices, in [0, C).
        test_MCHW: Images of other classes.
        test_labels_M: Their class indices.
    """

    name: str
    train_NCHW: Tensor
    train_labels_N: NDArray[np.int64]
    test_MCHW: Tensor
    test_labels_M: NDArray[np.int64]

    @property
    def num_classes(self) -> int:
        """C, of the training classes."""
        return int(self.train_labels_N.max()) + 1

    def first(self, classes: int, shots: int) -> Split:
        """Less of it: the first classes, and the first samples of each, on both sides."""
        train, test = _first(self.train_labels_N, classes, shots), _first(self.test_labels_M, classes, shots)
        return Split(
            name=self.name,
            train_NCHW=self.train_NCHW[train],
            train_labels_N=self.train_labels_N[train],
            test_MCHW=self.test_MCHW[test],
            test_labels_M=self.test_labels_M[test],
        )


def omniglot(folder: Path) -> Split:
    """The split of the demo, with true labels throughout."""
    data = load(str(folder), seed=0)
    images = [
        torch.stack([torch.from_numpy(GRAY.apply(decode_image(image.png))) for image in part])
        for part in (data.train, data.test)
    ]
    labels = [codes([image.true_label for image in part]) for part in (data.train, data.test)]
    return Split(
        name="omniglot", train_NCHW=images[0], train_labels_N=labels[0], test_MCHW=images[1], test_labels_M=labels[1]
    )


def codes(labels: Sequence[str]) -> NDArray[np.int64]:
    """Labels as indices, in order of their names."""
    return np.unique(np.asarray(labels), return_inverse=True)[1].astype(np.int64)


def _first(labels: NDArray[np.int64], classes: int, shots: int) -> NDArray[np.int64]:
    rows = [np.flatnonzero(labels == label)[:shots] for label in range(classes)]
    return np.concatenate(rows)
