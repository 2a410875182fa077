"""Proxy-Anchor (Kim et al., CVPR 2020), as a sum of one term per sample."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor
from torch.nn import functional as F

_LEAST_SHARE = 0.05
"""Of `1 + m` where `log1p(m)` is still accurate; below, digits cancel."""
_MOST_SHARE = 1e30
"""Of `1 + m`, far from the end of float32."""


@dataclass(frozen=True)
class ProxyAnchor:
    """The loss of a batch of one sample, with s its cosines to the proxies and y its label.

        L(x) = log(1 + exp(-alpha (s_y - margin))) + 1/C sum_(c is not y) log(1 + exp(alpha (s_c + margin)))

    The loss as published gathers a batch by proxy, inside the logarithm, so a sample has no term of its own there. In a
    batch of one it has: one proxy with a positive sample, and every other with one negative sample, divided by all C.

    Attributes:
        proxies_CD: One proxy a class; normalised by the loss.
        margin: Of the cosines; 0.1 as published.
        alpha: Scale of the cosines; 32 as published.
    """

    proxies_CD: Tensor
    margin: float = 0.1
    alpha: float = 32.0

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
        negative_NC = _softplus(self.alpha * (cosine_NC + self.margin))
        index = labels_N[:, None]
        positive_N = _softplus(-self.alpha * (cosine_NC.gather(1, index)[:, 0] - self.margin))
        return positive_N + negative_NC.scatter(1, index, 0.0).sum(1) / self.num_classes

    @property
    def representatives_PD(self) -> Tensor:
        """Normalised proxies."""
        return F.normalize(self.proxies_CD, dim=1)

    def at(self, cosine_BP: Tensor, labels_B: Tensor) -> ProxyAnchorState:
        """The losses near these cosines to the proxies. Overwrites cosine_BP."""
        return ProxyAnchorState(self, cosine_BP, labels_B)

    def to(self, *, device: torch.device | str, dtype: torch.dtype) -> ProxyAnchor:
        """The same loss elsewhere."""
        return ProxyAnchor(self.proxies_CD.to(device, dtype), self.margin, self.alpha)


def _softplus(exponent: Tensor) -> Tensor:
    """`log(1 + exp(a))` to the last digit: by default torch leaves off what is below 2e-9."""
    return F.softplus(exponent, threshold=50.0)


class ProxyAnchorState:
    """Proxy-Anchor as a function of the cosines to all proxies, at theta_0.

    With a the exponent of a term, and D its change:

        log(1 + exp(a + D)) - log(1 + exp(a)) = log1p(sigmoid(a) expm1(D))
    """

    def __init__(self, loss: ProxyAnchor, cosine_BP: Tensor, labels_B: Tensor) -> None:
        self._label_B1, self._alpha, self._share = labels_B[:, None], loss.alpha, 1 / loss.num_classes
        own = cosine_BP.gather(1, self._label_B1).sub_(loss.margin).mul_(-loss.alpha)
        self._exponent_BC = cosine_BP.add_(loss.margin).mul_(loss.alpha).scatter_(1, self._label_B1, own)
        self._sigmoid_BC = self._exponent_BC.sigmoid()
        self.base_B = self._total(_softplus(self._exponent_BC)[None])[0]

    def slope(self) -> Tensor:
        """dL/dcos (B, C) at theta_0."""
        slope_BC = self._sigmoid_BC * (self._alpha * self._share)
        own = self._sigmoid_BC.gather(1, self._label_B1).mul_(-self._alpha)
        return slope_BC.scatter_(1, self._label_B1, own)

    def change(self, delta_TBP: Tensor, *, reach: float = inf) -> Tensor:  # noqa: ARG002 - short or far, the way is one
        """`L(cos + delta) - L(cos)` (T, B) at T thetas. Overwrites delta_TBP."""
        index_TBI = self._label_B1.expand(len(delta_TBP), -1, -1)
        own_TBI = delta_TBP.gather(2, index_TBI).neg_()
        raised_TBC = delta_TBP.scatter_(2, index_TBI, own_TBI).mul_(self._alpha)
        moved_TBC = torch.expm1(raised_TBC).mul_(self._sigmoid_BC)
        if moved_TBC.numel() == 0 or (moved_TBC.amin() > _LEAST_SHARE - 1 and moved_TBC.amax() < _MOST_SHARE):
            return self._total(moved_TBC.log1p_())
        fits_TBC = (moved_TBC > _LEAST_SHARE - 1) & (moved_TBC < _MOST_SHARE)  # false for NaN too
        far_TBC = _softplus(self._exponent_BC + raised_TBC) - _softplus(self._exponent_BC)
        return self._total(torch.where(fits_TBC, moved_TBC.log1p_(), far_TBC))

    def _total(self, term_TBC: Tensor) -> Tensor:
        """The sum (T, B) of the terms, of which all but the label's count 1/C. Overwrites term_TBC."""
        index_TBI = self._label_B1.expand(len(term_TBC), -1, -1)
        label_TB = term_TBC.gather(2, index_TBI)[..., 0]
        total_TB: Tensor = term_TBC.scatter_(2, index_TBI, 0.0).sum(2)
        return total_TB.mul_(self._share).add_(label_TB)
