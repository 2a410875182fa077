"""ArcFace (Deng et al., CVPR 2019): cross-entropy with a margin on the angle to the label."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from eif_engine.losses.angular_margin import AngularMargin
from eif_engine.losses.cosine import SoftmaxState
from eif_engine.losses.proxies import ProxyPerClass


@dataclass(frozen=True)
class ArcFace(ProxyPerClass):
    """`L(x) = -log softmax_c(scale cos_c)` at the label of x, whose own cosine is that of its angle plus the margin.

    Past the angle pi - margin, where the cosine would rise again, it is `cos - margin sin(margin)` (see AngularMargin).

    Attributes:
        proxies_CD: One weight vector a class; normalised by the loss.
        scale: Above 0; 64 as published.
        margin: In degrees, from 0 to below 180; 28.6 (0.5 in radians) as published.
    """

    scale: float = 64.0
    margin: float = 28.6

    def per_sample(self, z_ND: Tensor, labels_N: Tensor) -> Tensor:
        """Losses (N,)."""
        cosine_NC, index = self.cosines(z_ND), labels_N[:, None]
        target = AngularMargin(cosine_NC.gather(1, index), self.margin).value
        logits_NC = self.scale * cosine_NC.scatter(1, index, target)
        return F.cross_entropy(logits_NC, labels_N, reduction="none")

    def at(self, cosine_BP: Tensor, labels_B: Tensor) -> ArcFaceState:
        """The losses near these cosines to the weight vectors. Overwrites cosine_BP."""
        return ArcFaceState(self, cosine_BP, labels_B)


class ArcFaceState:
    """A softmax of the cosines, of which the label's stands for that with the margin: at theta_0."""

    def __init__(self, loss: ArcFace, cosine_BP: Tensor, labels_B: Tensor) -> None:
        self._label_B1 = labels_B[:, None]
        self._target = AngularMargin(cosine_BP.gather(1, self._label_B1), loss.margin)
        logits_BC = cosine_BP.scatter_(1, self._label_B1, self._target.value).mul_(loss.scale)
        self._softmax = SoftmaxState(logits_BC, labels_B, loss.scale)
        self.base_B = self._softmax.base_B

    def slope(self) -> Tensor:
        """dL/dcos (B, P) at theta_0."""
        slope_BC = self._softmax.slope()
        return slope_BC.scatter_(1, self._label_B1, slope_BC.gather(1, self._label_B1) * self._target.slope())

    def change(self, delta_TBP: Tensor) -> Tensor:
        """`L(cos + delta) - L(cos)` (T, B) at T thetas. Overwrites delta_TBP."""
        index_TBI = self._label_B1.expand(len(delta_TBP), -1, -1)
        target_TBI = self._target.change(delta_TBP.gather(2, index_TBI))
        return self._softmax.change(delta_TBP.scatter_(2, index_TBI, target_TBI))
