"""NormalizedSoftmax (Zhai and Wu, BMVC 2019): cross-entropy of cosines over a temperature."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from eif_engine.losses.cosine import SoftmaxState
from eif_engine.losses.proxies import ProxyPerClass


@dataclass(frozen=True)
class NormalizedSoftmax(ProxyPerClass):
    """`L(x) = -log softmax_c(cos_c / temperature)` at the label of x.

    Attributes:
        proxies_CD: One weight vector a class; normalised by the loss.
        temperature: Above 0; 0.05 as published.
    """

    temperature: float = 0.05

    def per_sample(self, z_ND: Tensor, labels_N: Tensor) -> Tensor:
        """Losses (N,)."""
        cosine_NC = self.cosines(z_ND)
        return F.cross_entropy(cosine_NC / self.temperature, labels_N, reduction="none")

    def at(self, cosine_BP: Tensor, labels_B: Tensor) -> SoftmaxState:
        """The losses near these cosines to the weight vectors. Overwrites cosine_BP."""
        return SoftmaxState(cosine_BP.div_(self.temperature), labels_B, 1 / self.temperature)
