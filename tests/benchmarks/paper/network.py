"""A small convolutional embedding network, trained from scratch with ProxyNCA++ or SoftTriple."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eif_engine.losses.proxy_nca import ProxyNCA
from eif_engine.losses.soft_triple import SoftTriple
from eif_engine.models.small import conv4

CENTERS = 2
"""K of SoftTriple."""

BATCH = 64
LEARNING_RATE = 3e-3
PROXY_LEARNING_RATE = 9e-2


class LossName(StrEnum):
    """The two losses of the paper, as `meta` of a case names them."""

    PROXY_NCA = "proxy_nca"
    SOFT_TRIPLE = "soft_triple"


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large the network is and how long it trains."""

    width: int = 32
    embedding_dim: int = 64
    epochs: int = 10

    @property
    def name(self) -> str:
        """For folders of cached models."""
        return f"w{self.width}-d{self.embedding_dim}-e{self.epochs}"


class Network(nn.Module):
    """Backbone, head, and the representatives of the classes: (C, D), or (C, K, D) for SoftTriple."""

    def __init__(self, loss: LossName, *, classes: int, image_shape: tuple[int, ...], size: Size) -> None:
        super().__init__()
        channels, side, _ = image_shape
        self.loss_name = loss
        self.backbone = conv4(in_channels=channels, width=size.width, image_size=side)
        with torch.no_grad():
            features = self.backbone.eval()(torch.zeros(1, *image_shape)).shape[1]
        self.head = nn.Linear(features, size.embedding_dim)
        shape = (classes, size.embedding_dim) if loss is LossName.PROXY_NCA else (classes, CENTERS, size.embedding_dim)
        self.proxies = nn.Parameter(torch.randn(shape))

    def forward(self, images_BCHW: Tensor, labels_B: Tensor) -> Tensor:
        """Losses (B,)."""
        return make_loss(self.loss_name, self.proxies).per_sample(self.head(self.backbone(images_BCHW)), labels_B)


def make_loss(name: LossName, proxies: Tensor) -> ProxyNCA | SoftTriple:
    """The loss over these representatives, with the published settings."""
    return ProxyNCA(proxies) if name is LossName.PROXY_NCA else SoftTriple(proxies)


def train(
    images_NCHW: Tensor, labels_N: NDArray[np.int64], *, loss: LossName, size: Size, seed: int, classes: int
) -> Network:
    """Train from scratch; the same seed gives the same network on the same kind of processor."""
    torch.manual_seed(seed)
    # Channels last: the convolutions of this size take half the time on a CPU.
    images_NCHW = images_NCHW.contiguous(memory_format=torch.channels_last)
    shape = (int(images_NCHW.shape[1]), int(images_NCHW.shape[2]), int(images_NCHW.shape[3]))
    network = Network(loss, classes=classes, image_shape=shape, size=size)
    network.backbone.to(memory_format=torch.channels_last)
    targets_N = torch.from_numpy(labels_N)
    optimizer, schedule = _optimizer(network, steps=size.epochs * -(-len(targets_N) // BATCH))
    network.train()
    for _ in range(size.epochs):
        for rows in torch.split(torch.randperm(len(targets_N)), BATCH):
            optimizer.zero_grad()
            torch.autograd.backward([network(_shift(images_NCHW[rows]), targets_N[rows]).mean()])
            optimizer.step()
            schedule.step()
    return network.eval()


@torch.no_grad()
def features(backbone: nn.Module, images_NCHW: Tensor) -> Tensor:
    """Penultimate features (N, F)."""
    return torch.cat([backbone(batch) for batch in torch.split(images_NCHW, 256)])


def _optimizer(network: Network, *, steps: int) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.OneCycleLR]:
    layers = [*network.backbone.parameters(), *network.head.parameters()]
    optimizer = torch.optim.AdamW(
        [{"params": layers, "weight_decay": 1e-4}, {"params": [network.proxies], "weight_decay": 0.0}]
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [LEARNING_RATE, PROXY_LEARNING_RATE], total_steps=steps, pct_start=0.2
    )
    return optimizer, schedule


def _shift(images_BCHW: Tensor) -> Tensor:
    """Shift a batch by up to a sixteenth of its side."""
    reach = images_BCHW.shape[-1] // 16
    down, right = torch.randint(-reach, reach + 1, (2,)).tolist()
    return torch.roll(images_BCHW, (down, right), dims=(2, 3))
