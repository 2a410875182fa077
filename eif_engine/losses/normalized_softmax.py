"""NormalizedSoftmax (Zhai and Wu, BMVC 2019): cross-entropy of cosines over a temperature."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from eif_engine.losses.cosine import SoftmaxState


@dataclass(frozen=True)
class NormalizedSoftmax:
    """`L(x) = -log softmax_c(cos_c / temperature)` at the label of x.

    Attributes:
        proxies_CD: One weight vector a class; normalised by the loss.
        temperature: Above 0; 0.05 as published.
    """

    proxies_CD: Tensor
    temperature: float = 0.05

    @property
    def num_classes(self) -> int:
        """C."""
        return self.proxies_CD.shape[0]

    @property
    def embedding_dim(self) -> int:
        """D."""
        return self.proxies_CD.shape[1]

    def per_sample(self, z_ND: Tensor, labels_N: Tensor) -> Tensor:
        """Losses (N,)."""
        cosine_NC = F.normalize(z_ND, dim=1) @ self.representatives_PD.T
        return F.cross_entropy(cosine_NC / self.temperature, labels_N, reduction="none")

    @property
    def representatives_PD(self) -> Tensor:
        """Normalised weight vectors."""
        return F.normalize(self.proxies_CD, dim=1)

    def at(self, cosine_BP: Tensor, labels_B: Tensor) -> SoftmaxState:
        """The losses near these cosines to the weight vectors. Overwrites cosine_BP."""
        return SoftmaxState(cosine_BP.div_(self.temperature), labels_B, 1 / self.temperature)

    def to(self, *, device: torch.device | str, dtype: torch.dtype) -> NormalizedSoftmax:
        """The same loss elsewhere."""
        return NormalizedSoftmax(self.proxies_CD.to(device, dtype), self.temperature)
