"""A fixed bank of class representatives: what a loss of pairs or triplets compares a sample with.

Such a loss has no value of a sample alone. Against a bank it has, and one that follows theta: the representatives are
taken from the training embeddings at theta_0 and stay where they are, as proxies do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from eif_engine.losses.settings import BankSettings
from eif_engine.models.head import Head

_BLOCK_ROWS = 16_384


class Rows(Protocol):
    """Features by row: a tensor, or anything that reads them from a disk."""

    def __len__(self) -> int:
        """N."""
        ...

    def __getitem__(self, rows: slice, /) -> Tensor:
        """Features (n, F) of a range of rows."""
        ...


@dataclass(frozen=True, eq=False)
class Bank:
    """Representatives of classes.

    Attributes:
        z_PD: Unit rows, those of a class together.
        labels_P: Their class indices.
        per_class: The most that any class has.
    """

    z_PD: Tensor
    labels_P: Tensor
    per_class: int

    def to(self, *, device: torch.device | str, dtype: torch.dtype) -> Bank:
        """The same bank elsewhere."""
        return Bank(self.z_PD.to(device, dtype), self.labels_P.to(device), self.per_class)


def make_bank(head: Head, x_NF: Rows, labels_N: Tensor, settings: BankSettings) -> Bank:
    """The bank of a training set.

    The samples of a class, in an order drawn by the seed, are dealt into `per_class` parts; a representative is the
    mean direction of the embeddings of a part. One part is the whole class; with as many parts as samples, the
    representatives are the samples. A class with fewer samples has as many representatives as samples.

    Args:
        head: At theta_0.
        x_NF: Features of the training samples.
        labels_N: Their class indices, as given.
        settings: How many parts, and the seed.

    Returns:
        In float64, on the device of the head.
    """
    part_N = _parts(labels_N, settings)
    keys, place_N = torch.unique(labels_N.cpu() * settings.per_class + part_N, return_inverse=True)
    head = head.to(device=head.weight_DF.device, dtype=torch.float64)
    device = head.weight_DF.device
    sum_PD = torch.zeros(len(keys), len(head.bias_D), dtype=torch.float64, device=device)
    for start in range(0, len(x_NF), _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        zn_BD = F.normalize(head.embed(x_NF[rows].to(device, torch.float64)), dim=1)
        sum_PD.index_add_(0, place_N[rows].to(device), zn_BD)
    labels_P = (keys // settings.per_class).to(device)
    return Bank(F.normalize(sum_PD, dim=1), labels_P, int(labels_P.bincount().max()) if len(labels_P) else 0)


def _parts(labels_N: Tensor, settings: BankSettings) -> Tensor:
    """Of each sample, which part of its class it is dealt to."""
    generator = torch.Generator().manual_seed(settings.seed)
    drawn_N = torch.randperm(len(labels_N), generator=generator)
    order_N = drawn_N[labels_N.cpu()[drawn_N].argsort(stable=True)]
    counts = torch.unique_consecutive(labels_N.cpu()[order_N], return_counts=True)[1]
    starts = counts.cumsum(0) - counts
    place_N = torch.arange(len(labels_N)) - starts.repeat_interleave(counts)
    return torch.empty_like(place_N).scatter_(0, order_N, place_N % settings.per_class)
