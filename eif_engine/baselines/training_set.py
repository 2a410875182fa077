"""The training samples of a head, read block by block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from eif_engine.data.rows import FeatureRows
from eif_engine.losses.base import ProxyLoss
from eif_engine.losses.cosine import CosineLoss
from eif_engine.models.head import Head


class Block(NamedTuple):
    """Some samples: features, embeddings at theta_0, class indices."""

    x_BF: Tensor
    z_BD: Tensor
    labels_B: Tensor


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """A head, its loss, and the samples it was trained on.

    Attributes:
        head: The last linear layer, where and in what precision the work is done.
        loss: The loss, likewise.
        features: Features of the samples, anywhere.
        labels_N: Their class indices.
    """

    head: Head
    loss: ProxyLoss
    features: FeatureRows
    labels_N: Tensor

    def __len__(self) -> int:
        return len(self.labels_N)

    @property
    def classes(self) -> int:
        """Values that the loss keeps of a sample: one a class, or one a centre."""
        return len(self.loss.representatives_PD) if isinstance(self.loss, CosineLoss) else self.loss.num_classes

    def samples(self, size: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Features x_BF and labels (B,) of all samples in order, `size` at a time."""
        weight_DF = self.head.weight_DF
        for start in range(0, len(self), size):
            rows = slice(start, min(start + size, len(self)))
            x_BF = self.features[rows].to(weight_DF.device, weight_DF.dtype)
            yield rows, x_BF, self.labels_N[rows].to(weight_DF.device)

    def blocks(self, size: int) -> Iterator[tuple[slice, Block]]:
        """The same with their embeddings."""
        for rows, x_BF, labels_B in self.samples(size):
            yield rows, Block(x_BF, self.head.embed(x_BF), labels_B)


def output_gradients(loss: ProxyLoss, block: Block) -> Tensor:
    """g_BD = dL/dz of each sample: the gradient of its loss in the head weight is `g x^T`."""
    with torch.enable_grad():
        leaf_BD = block.z_BD.detach().requires_grad_()
        (g_BD,) = torch.autograd.grad(loss.per_sample(leaf_BD, block.labels_B).sum(), leaf_BD)
    return g_BD
