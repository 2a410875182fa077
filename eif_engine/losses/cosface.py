"""CosFace (Wang et al., CVPR 2018): cross-entropy with a margin off the cosine of the label."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from eif_engine.losses.cosine import SoftmaxState
from eif_engine.losses.proxies import ProxyPerClass


@dataclass(frozen=True)
class CosFace(ProxyPerClass):
    """`L(x) = -log softmax_c(scale (cos_c - margin [c is the label]))` at the label of x.

    Attributes:
        proxies_CD: One weight vector a class; normalised by the loss.
        scale: Above 0; 64 as published.
        margin: 0.35 as published.
    """

    scale: float = 64.0
    margin: float = 0.35

    def per_sample(self, z_ND: Tensor, labels_N: Tensor) -> Tensor:
        """Losses (N,)."""
        cosine_NC = self.cosines(z_ND)
        return F.cross_entropy(self._logits(cosine_NC, labels_N), labels_N, reduction="none")

    def at(self, cosine_BP: Tensor, labels_B: Tensor) -> SoftmaxState:
        """The losses near these cosines to the weight vectors."""
        return SoftmaxState(self._logits(cosine_BP, labels_B), labels_B, self.scale)

    def _logits(self, cosine_NC: Tensor, labels_N: Tensor) -> Tensor:
        index = labels_N[:, None]
        return self.scale * cosine_NC.scatter(1, index, cosine_NC.gather(1, index) - self.margin)
