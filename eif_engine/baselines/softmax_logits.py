"""Losses written as the cross-entropy of logits, which is what Gauss-Newton curvature is defined by."""

from __future__ import annotations

from functools import singledispatch

from torch import Tensor
from torch.nn import functional as F

from eif_engine.errors import InvalidInput
from eif_engine.losses.angular_margin import AngularMargin
from eif_engine.losses.arcface import ArcFace
from eif_engine.losses.base import ProxyLoss
from eif_engine.losses.cosface import CosFace
from eif_engine.losses.normalized_softmax import NormalizedSoftmax
from eif_engine.losses.proxy_nca import ProxyNCA, proxy_nca_logits
from eif_engine.losses.soft_triple import SoftTriple, soft_triple_similarity


@singledispatch
def softmax_logits(loss: ProxyLoss, z_BD: Tensor, labels_B: Tensor) -> Tensor:
    """Logits (B, C) whose cross-entropy with the labels is the loss; a margin makes them depend on the labels.

    Raises:
        InvalidInput: The loss is not a cross-entropy over classes.
    """
    del z_BD, labels_B
    raise InvalidInput(
        f"the loss {type(loss).__name__} is no cross-entropy over classes, which influence functions by conjugate "
        "gradient and EK-FAC need (ProxyNCA, SoftTriple, NormalizedSoftmax, CosFace, ArcFace are): use method eif or "
        "published_if",
        field="method",
    )


@softmax_logits.register
def _proxy_nca(loss: ProxyNCA, z_BD: Tensor, _labels_B: Tensor) -> Tensor:
    return proxy_nca_logits(z_BD, loss.proxies_CD, loss.scale)


@softmax_logits.register
def _soft_triple(loss: SoftTriple, z_BD: Tensor, labels_B: Tensor) -> Tensor:
    similarity_BC = soft_triple_similarity(z_BD, loss.centers_CKD, loss.gamma)
    return loss.lambda_ * (similarity_BC - loss.margin * F.one_hot(labels_B, loss.num_classes).to(similarity_BC))


@softmax_logits.register
def _normalized_softmax(loss: NormalizedSoftmax, z_BD: Tensor, _labels_B: Tensor) -> Tensor:
    return _cosines(loss, z_BD) / loss.temperature


@softmax_logits.register
def _cosface(loss: CosFace, z_BD: Tensor, labels_B: Tensor) -> Tensor:
    cosine_BC = _cosines(loss, z_BD)
    return loss.scale * (cosine_BC - loss.margin * F.one_hot(labels_B, loss.num_classes).to(cosine_BC))


@softmax_logits.register
def _arcface(loss: ArcFace, z_BD: Tensor, labels_B: Tensor) -> Tensor:
    cosine_BC, index = _cosines(loss, z_BD), labels_B[:, None]
    margin = AngularMargin(cosine_BC.gather(1, index), loss.margin)
    return loss.scale * cosine_BC.scatter(1, index, margin.value)


def _cosines(loss: NormalizedSoftmax | CosFace | ArcFace, z_BD: Tensor) -> Tensor:
    return F.normalize(z_BD, dim=1) @ loss.representatives_PD.T
