"""Proxy-Anchor (Kim et al., CVPR 2020), as a sum of one term per sample."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from eif_engine.losses.cosine import fits
from eif_engine.losses.proxies import ProxyPerClass


@dataclass(frozen=True)
class ProxyAnchor(ProxyPerClass):
    """The loss of a batch of one sample, with s its cosines to the proxies and y its label.

        L(x) = log(1 + exp(-alpha (s_y - margin))) + 1/C sum_(c is not y) log(1 + exp(alpha (s_c + margin)))

    The loss as published gathers a batch by proxy, inside the logarithm, so a sample has no term of its own there. In a
    batch of one it has: one proxy with a positive sample, and every other with one negative sample, divided by all C.

    Attributes:
        proxies_CD: One proxy a class; normalised by the loss.
        margin: Of the cosines; 0.1 as published.
        alpha: Scale of the cosines; 32 as published.
    """

    margin: float = 0.1
    alpha: float = 32.0

    def per_sample(self, z_ND: Tensor, labels_N: Tensor) -> Tensor:
        """Losses (N,)."""
        cosine_NC = self.cosines(z_ND)
        negative_NC = _softplus(self.alpha * (cosine_NC + self.margin))
        index = labels_N[:, None]
        positive_N = _softplus(-self.alpha * (cosine_NC.gather(1, index)[:, 0] - self.margin))
        return positive_N + negative_NC.scatter(1, index, 0.0).sum(1) / self.num_classes

    def at(self, cosine_BP: Tensor, labels_B: Tensor) -> ProxyAnchorState:
        """The losses near these cosines to the proxies. Overwrites cosine_BP."""
        return ProxyAnchorState(self, cosine_BP, labels_B)


def _softplus(exponent: Tensor) -> Tensor:
    """`log(1 + exp(a))` to the last digit: by default torch leaves off what is below 2e-9."""
    return F.softplus(exponent, threshold=50.0)


class ProxyAnchorState:
    """Proxy-Anchor as a function of the cosines to all proxies, at theta_0.

    With a the exponent of a term, and D its change:

        log(1 + exp(a + D)) - log(1 + exp(a)) = log(sigmoid(-a) + sigmoid(a) exp(D)) = log1p(sigmoid(a) expm1(D))
    """

    def __init__(self, loss: ProxyAnchor, cosine_BP: Tensor, labels_B: Tensor) -> None:
        self._label_B1, self._alpha, self._share = labels_B[:, None], loss.alpha, 1 / loss.num_classes
        own = cosine_BP.gather(1, self._label_B1).sub_(loss.margin).mul_(-loss.alpha)
        self._exponent_BC = cosine_BP.add_(loss.margin).mul_(loss.alpha).scatter_(1, self._label_B1, own)
        self._up_BC, self._down_BC = self._exponent_BC.sigmoid(), self._exponent_BC.neg().sigmoid_()
        self.base_B = self._total(_softplus(self._exponent_BC), self._label_B1)

    def slope(self) -> Tensor:
        """dL/dcos (B, C) at theta_0."""
        slope_BC = self._up_BC * (self._alpha * self._share)
        own = self._up_BC.gather(1, self._label_B1).mul_(-self._alpha)
        return slope_BC.scatter_(1, self._label_B1, own)

    def change(self, delta_TBP: Tensor) -> Tensor:
        """`L(cos + delta) - L(cos)` (T, B) at T thetas. Overwrites delta_TBP."""
        index_TBI = self._label_B1.expand(len(delta_TBP), -1, -1)
        own_TBI = delta_TBP.gather(2, index_TBI).neg_()
        raised_TBC = delta_TBP.scatter_(2, index_TBI, own_TBI).mul_(self._alpha)
        change_TB = self._total(torch.exp(raised_TBC).mul_(self._up_BC).add_(self._down_BC).log_(), index_TBI)
        least = torch.finfo(change_TB.dtype).eps ** 0.25
        sure_TB = (change_TB.abs() > least) & change_TB.isfinite()
        if not bool(sure_TB.all()):
            t, b = (~sure_TB).nonzero(as_tuple=True)
            term_XC = self._careful(raised_TBC[t, b], self._exponent_BC[b], self._up_BC[b])
            change_TB[t, b] = self._total(term_XC, self._label_B1[b])
        return change_TB

    def _careful(self, raised_XC: Tensor, exponent_XC: Tensor, up_XC: Tensor) -> Tensor:
        """Changes of the terms, by functions that cancel nowhere and cost several times as much."""
        moved_XC = torch.expm1(raised_XC).mul_(up_XC)
        fits_XC = fits(moved_XC)
        change_XC = moved_XC.log1p_()
        if not bool(fits_XC.all()):
            change_XC = torch.where(fits_XC, change_XC, _softplus(exponent_XC + raised_XC) - _softplus(exponent_XC))
        return change_XC

    def _total(self, term_XC: Tensor, label_XI: Tensor) -> Tensor:
        """The sum (X,) of the terms, of which all but the label's count 1/C. Overwrites term_XC."""
        label_X = term_XC.gather(-1, label_XI)[..., 0]
        total_X: Tensor = term_XC.scatter_(-1, label_XI, 0.0).sum(-1)
        return total_X.mul_(self._share).add_(label_X)
