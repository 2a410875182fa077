"""SoftTriple (Qian et al., ICCV 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from eif_engine.losses.cosine import SoftmaxState


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

    @property
    def representatives_PD(self) -> Tensor:
        """Normalised centres, those of a class side by side."""
        return F.normalize(self.centers_CKD.flatten(0, 1), dim=1)

    def at(self, cosine_BP: Tensor, labels_B: Tensor) -> SoftTripleState:
        """The losses near these cosines to the centres."""
        return SoftTripleState(self, cosine_BP, labels_B)

    def to(self, *, device: torch.device | str, dtype: torch.dtype) -> SoftTriple:
        """The same loss elsewhere."""
        return SoftTriple(self.centers_CKD.to(device, dtype), self.lambda_, self.gamma, self.margin)


class SoftTripleState:
    """SoftTriple as a function of the cosines to all centres, at theta_0.

    With w the weights of the centres of a class, S its similarity and e_k = expm1(delta_k / gamma):

        S' - S = (sum_k w_k e_k (cos_k - S) + sum_k w_k (1 + e_k) delta_k) / (1 + sum_k w_k e_k)
    """

    def __init__(self, loss: SoftTriple, cosine_BP: Tensor, labels_B: Tensor) -> None:
        self._gamma, self._K = loss.gamma, loss.centers_CKD.shape[1]
        cosine_BCK = cosine_BP.view(len(cosine_BP), -1, self._K)
        self._w_BCK = torch.softmax(cosine_BCK / loss.gamma, dim=2)
        similarity_BC = torch.linalg.vecdot(self._w_BCK, cosine_BCK)
        self._above_BCK = cosine_BCK - similarity_BC[..., None]
        logits_BC = loss.lambda_ * similarity_BC
        logits_BC -= (loss.lambda_ * loss.margin) * F.one_hot(labels_B, loss.num_classes).to(logits_BC)
        self._softmax = SoftmaxState(logits_BC, labels_B, loss.lambda_)
        self.base_B = self._softmax.base_B

    def slope(self) -> Tensor:
        """dL/dcos (B, P) at theta_0."""
        inner_BCK = self._w_BCK * (1 + self._above_BCK / self._gamma)
        slope_BCK: Tensor = self._softmax.slope()[..., None] * inner_BCK
        return slope_BCK.flatten(1)

    def change(self, delta_TBP: Tensor) -> Tensor:
        """`L(cos + delta) - L(cos)` (T, B)."""
        if self._K == 1:
            return self._softmax.change(delta_TBP)
        delta_TBCK = delta_TBP.view(*delta_TBP.shape[:2], -1, self._K)
        we_TBCK = torch.expm1(delta_TBCK / self._gamma).mul_(self._w_BCK)
        total_TBC = we_TBCK.sum(dim=3)
        moved_TBC = torch.linalg.vecdot(we_TBCK, self._above_BCK)
        moved_TBC += torch.linalg.vecdot(we_TBCK.add_(self._w_BCK), delta_TBCK)
        return self._softmax.change(moved_TBC.div_(total_TBC.add_(1)))
