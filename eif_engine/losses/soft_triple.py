"""SoftTriple (Qian et al., ICCV 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


def soft_triple_similarity(z_ND: Tensor, centers_CKD: Tensor, gamma: float) -> Tensor:
    """Relaxed similarity (N, C) of samples to classes: cosines to the centres, weighted by their softmax (eq. 7)."""
    C, K, D = centers_CKD.shape
    zn_ND = F.normalize(z_ND, dim=1)
    centers_PD = F.normalize(centers_CKD.reshape(C * K, D), dim=1)
    cosine_NCK = (zn_ND @ centers_PD.T).reshape(-1, C, K)
    weight_NCK = torch.softmax(cosine_NCK / gamma, dim=2)
    return (weight_NCK * cosine_NCK).sum(dim=2)


@dataclass(frozen=True)
class SoftTriple:
    """`L(x) = -log softmax_c(lambda (S_c - margin [c is the label]))` (eq. 8), without the regulariser on centres.

    The regulariser does not depend on the sample or on the head, so it has no part in influence.

    Attributes:
        centers_CKD: K centres a class; normalised by the loss.
        lambda_: Scale of the logits; 20 as published.
        gamma: Temperature of the softmax over the centres of a class; 0.1 as published.
        margin: 0.01 as published.
    """

    centers_CKD: Tensor
    lambda_: float = 20.0
    gamma: float = 0.1
    margin: float = 0.01

    @property
    def num_classes(self) -> int:
        """C."""
        return self.centers_CKD.shape[0]

    @property
    def embedding_dim(self) -> int:
        """D."""
        return self.centers_CKD.shape[2]

    def per_sample(self, z_ND: Tensor, labels_N: Tensor) -> Tensor:
        """Losses (N,)."""
        similarity_NC = soft_triple_similarity(z_ND, self.centers_CKD, self.gamma)
        margin_NC = self.margin * F.one_hot(labels_N, self.num_classes).to(similarity_NC)
        return F.cross_entropy(self.lambda_ * (similarity_NC - margin_NC), labels_N, reduction="none")

    def to(self, *, device: torch.device | str, dtype: torch.dtype) -> SoftTriple:
        """The same loss elsewhere."""
        return SoftTriple(self.centers_CKD.to(device, dtype), self.lambda_, self.gamma, self.margin)
