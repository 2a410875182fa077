"""ProxyNCA++ (Teh et al., ECCV 2020)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from eif_engine.losses.cosine import SoftmaxState
from eif_engine.losses.proxies import ProxyPerClass


def proxy_nca_logits(z_ND: Tensor, proxies_CD: Tensor, scale: float) -> Tensor:
    """`-|s zn - s pn|^2` for every sample and proxy (N, C): the softmax of eq. 6 there, with temperature 1 / s^2."""
    zn_ND, pn_CD = F.normalize(z_ND, dim=1), F.normalize(proxies_CD, dim=1)
    return (2 * scale**2) * (zn_ND @ pn_CD.T - 1)


@dataclass(frozen=True)
class ProxyNCA(ProxyPerClass):
    """`L(x) = -log softmax_c(-|s zn - s pn_c|^2)` at the label of x.

    Attributes:
        proxies_CD: One proxy a class; normalised by the loss.
        scale: s, above 0; 3 as published.
    """

    scale: float = 3.0

    def per_sample(self, z_ND: Tensor, labels_N: Tensor) -> Tensor:
        """Losses (N,)."""
        return F.cross_entropy(proxy_nca_logits(z_ND, self.proxies_CD, self.scale), labels_N, reduction="none")

    def at(self, cosine_BP: Tensor, labels_B: Tensor) -> SoftmaxState:
        """The losses near these cosines to the proxies. Overwrites cosine_BP."""
        scale = 2 * self.scale**2
        return SoftmaxState(cosine_BP.sub_(1).mul_(scale), labels_B, scale)
