"""A model that is ready to be explained."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from eif_engine.data.preprocessing import Preprocessing
from eif_engine.losses.base import ProxyLoss
from eif_engine.models.head import Head


@dataclass(frozen=True)
class LoadedModel:
    """What a bundle holds, in memory.

    Attributes:
        backbone: Images (B, C, H, W) to features (B, F); in eval mode, without gradients.
        head: Features (N, F) to embeddings (N, D), not normalised.
        loss: The loss it was trained with, a value a sample.
        classes: The training classes, in the order of the proxies.
        preprocessing: From a decoded image to the backbone's input.
        weights_sha256: Digest of the checkpoint, hex.
    """

    backbone: nn.Module
    head: Head
    loss: ProxyLoss
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    weights_sha256: str
