"""ProxyNCA++ (Teh et al., ECCV 2020)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from eif_engine.losses.cosine import SoftmaxState


def proxy_nca_logits(z_ND: Tensor, proxies_CD: Tensor, scale: float) -> Tensor:
    """`-|s zn - s pn|^2` for every sample and proxy (N, C): the softmax of eq. 6 there, with temperature 1 / s^2."""
    zn_ND, pn_CD = F.normalize(z_ND, dim=1), F.normalize(proxies_CD, dim=1)
    return (2 * scale**2) * (zn_ND @ pn_CD.T - 1)


@dataclass(frozen=True)
class ProxyNCA:
    """`L(x) = -log softmax_c(-|s zn - s pn_c|^2)` at the label of x.

    Attributes:
        proxies_CD: One proxy a class; normalised by the loss.
        scale: s, above 0; 3 as published.
    """

    proxies_CD: Tensor
    scale: float = 3.0

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
        return F.cross_entropy(proxy_nca_logits(z_ND, self.proxies_CD, self.scale), labels_N, reduction="none")

    @property
    def representatives_PD(self) -> Tensor:
        """Normalised proxies."""
        return F.normalize(self.proxies_CD, dim=1)

    def at(self, cosine_BP: Tensor, labels_B: Tensor) -> SoftmaxState:
        """The losses near these cosines to the proxies. Overwrites cosine_BP."""
        scale = 2 * self.scale**2
        return SoftmaxState(cosine_BP.sub_(1).mul_(scale), labels_B, scale)

    def to(self, *, device: torch.device | str, dtype: torch.dtype) -> ProxyNCA:
        """The same loss elsewhere."""
        return ProxyNCA(self.proxies_CD.to(device, dtype), self.scale)
