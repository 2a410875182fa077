"""Tiny models and data with known answers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from eif_engine.losses.base import ProxyLoss
from eif_engine.losses.proxy_nca import ProxyNCA
from eif_engine.losses.soft_triple import SoftTriple
from eif_engine.models.head import Head


@dataclass(frozen=True)
class Toy:
    """A head with a bias, its data, and both losses over the same classes."""

    head: Head
    proxy_nca: ProxyNCA
    soft_triple: SoftTriple
    train_NF: Tensor
    train_labels_N: Tensor
    test_MF: Tensor
    test_labels: list[str]

    @property
    def losses(self) -> list[ProxyLoss]:
        return [self.proxy_nca, self.soft_triple]

    @property
    def test_ids(self) -> list[str]:
        return [f"t{row:02d}" for row in range(len(self.test_MF))]

    @property
    def train_ids(self) -> list[str]:
        return [f"s{row:02d}" for row in range(len(self.train_NF))]


def toy(*, seed: int = 0, train: int = 24, test: int = 16, classes: int = 4, features: int = 7, dim: int = 5) -> Toy:
    """Random, float64, with test labels mixed enough to hold confusions."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return Toy(
        head=Head(draw(dim, features), 0.3 * draw(dim)),
        proxy_nca=ProxyNCA(draw(classes, dim), 3.0),
        soft_triple=SoftTriple(draw(classes, 3, dim), 20.0, 0.1, 0.01),
        train_NF=draw(train, features),
        train_labels_N=torch.arange(train) % classes,
        test_MF=draw(test, features),
        test_labels=[f"c{row % 3}" for row in range(test)],
    )
