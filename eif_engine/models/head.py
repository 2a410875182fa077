"""The head: the last linear layer, from features to embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Head:
    """`z = x W^T + b`. The only part of the model that theta moves under head scope.

    Attributes:
        weight_DF: W.
        bias_D: b; zeros where the layer has none.
    """

    weight_DF: Tensor
    bias_D: Tensor

    def __post_init__(self) -> None:
        if self.weight_DF.ndim != 2 or self.bias_D.shape != self.weight_DF.shape[:1]:
            raise ValueError(
                f"a head needs a weight (D, F) and a bias (D,), got {tuple(self.weight_DF.shape)} "
                f"and {tuple(self.bias_D.shape)}"
            )

    def embed(self, x_NF: Tensor) -> Tensor:
        """Embeddings z_ND, not normalised."""
        return torch.addmm(self.bias_D, x_NF, self.weight_DF.T)

    def to(self, *, device: torch.device | str, dtype: torch.dtype) -> Head:
        """The same head elsewhere."""
        return Head(self.weight_DF.to(device, dtype), self.bias_D.to(device, dtype))
