"""What the engine asks of a loss."""

from __future__ import annotations

from typing import Protocol, Self

import torch
from torch import Tensor


class ProxyLoss(Protocol):
    """A loss that is a sum of one term per sample, given class representatives (proxies, centres, or a fixed bank).

    Implementations are frozen: moving them makes a new one.
    """

    @property
    def num_classes(self) -> int:
        """C."""
        ...

    @property
    def embedding_dim(self) -> int:
        """D."""
        ...

    def per_sample(self, z_ND: Tensor, labels_N: Tensor) -> Tensor:
        """Losses (N,) of embeddings (not normalised; the loss does that) with class indices in [0, C)."""
        ...

    def to(self, *, device: torch.device | str, dtype: torch.dtype) -> Self:
        """The same loss elsewhere."""
        ...
