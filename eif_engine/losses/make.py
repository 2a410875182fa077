"""The loss that settings name."""

from __future__ import annotations

from torch import Tensor

from eif_engine.losses.arcface import ArcFace
from eif_engine.losses.base import ProxyLoss
from eif_engine.losses.cosface import CosFace
from eif_engine.losses.normalized_softmax import NormalizedSoftmax
from eif_engine.losses.pml import PmlLoss
from eif_engine.losses.pml_bank import PmlBankLoss
from eif_engine.losses.proxy_anchor import ProxyAnchor
from eif_engine.losses.proxy_nca import ProxyNCA
from eif_engine.losses.settings import (
    ArcFaceSettings,
    CosFaceSettings,
    LossSettings,
    NormalizedSoftmaxSettings,
    PmlSettings,
    ProxyAnchorSettings,
    ProxyNcaSettings,
    SoftTripleSettings,
)
from eif_engine.losses.soft_triple import SoftTriple


def make_loss(settings: LossSettings, vectors_CKD: Tensor | None, *, num_classes: int, embedding_dim: int) -> ProxyLoss:
    """The loss with its learnt vectors.

    Args:
        settings: Which loss.
        vectors_CKD: K vectors of each class; None for a loss that has none.
        num_classes: C.
        embedding_dim: D.

    Raises:
        InvalidInput: Arguments that a class of pytorch-metric-learning does not take; the message begins with which.
    """
    if vectors_CKD is None:
        if not isinstance(settings, PmlSettings):
            raise ValueError(f"loss {settings.name} has learnt vectors")
        return PmlBankLoss.of(settings, num_classes=num_classes, embedding_dim=embedding_dim)
    if isinstance(settings, PmlSettings):
        return PmlLoss.of(settings, vectors_CKD)
    if isinstance(settings, SoftTripleSettings):
        return SoftTriple(vectors_CKD, settings.lambda_, settings.gamma, settings.margin)
    return _one_vector_a_class(settings, vectors_CKD.flatten(1))


def _one_vector_a_class(
    settings: ProxyNcaSettings | ProxyAnchorSettings | NormalizedSoftmaxSettings | CosFaceSettings | ArcFaceSettings,
    proxies_CD: Tensor,
) -> ProxyLoss:
    match settings:
        case ProxyNcaSettings():
            return ProxyNCA(proxies_CD, settings.scale)
        case ProxyAnchorSettings():
            return ProxyAnchor(proxies_CD, settings.margin, settings.alpha)
        case NormalizedSoftmaxSettings():
            return NormalizedSoftmax(proxies_CD, settings.temperature)
        case CosFaceSettings():
            return CosFace(proxies_CD, settings.scale, settings.margin)
        case ArcFaceSettings():
            return ArcFace(proxies_CD, settings.scale, settings.margin)
