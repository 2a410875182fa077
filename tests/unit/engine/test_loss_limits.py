"""Every loss that a model can name, ranked: a short step is the first-order limit, whatever path it takes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from eif_engine.config import FirstOrder, InfluenceConfig, QueryKind, UnitStep
from eif_engine.jobs.queries import find_queries
from eif_engine.jobs.rank import rank
from eif_engine.losses.base import ProxyLoss
from eif_engine.losses.make import make_loss
from eif_engine.losses.pml_bank import with_bank
from eif_engine.losses.pml_classes import BANK_CLASSES, PROXY_CLASSES
from eif_engine.losses.settings import (
    ArcFaceSettings,
    CosFaceSettings,
    LossSettings,
    NormalizedSoftmaxSettings,
    PmlSettings,
    ProxyAnchorSettings,
    ProxyNcaSettings,
    SoftTripleSettings,
    has_parameters,
)
from eif_engine.models.loss_state import centers_per_class
from tests import oracles
from tests.toy import toy

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

# CircleLoss holds its weights fixed in its gradient, by its design: at first order it is another loss.
LOSSES: list[LossSettings] = [
    ProxyNcaSettings(),
    SoftTripleSettings(centers_per_class=2),
    ProxyAnchorSettings(),
    NormalizedSoftmaxSettings(),
    CosFaceSettings(),
    ArcFaceSettings(),
    *(PmlSettings(class_=name) for name in PROXY_CLASSES),
    *(PmlSettings(class_=name) for name in BANK_CLASSES if name != "CircleLoss"),
]
DATA = toy(train=40)
QUERIES = find_queries(
    embeddings_MD=DATA.head.embed(DATA.test_MF),
    labels=DATA.test_labels,
    sample_ids=DATA.test_ids,
    kind=QueryKind.CONFUSION_PAIRS,
)[:3]


def ready(settings: LossSettings) -> ProxyLoss:
    shape, generator = (4, centers_per_class(settings), 5), torch.Generator().manual_seed(3)
    vectors_CKD = torch.randn(shape, generator=generator, dtype=torch.float64) if has_parameters(settings) else None
    loss = make_loss(settings, vectors_CKD, num_classes=4, embedding_dim=5)
    return with_bank(loss, DATA.head, DATA.train_NF, DATA.train_labels_N)


def scores(loss: ProxyLoss, config: InfluenceConfig, *, dtype: torch.dtype = torch.float64) -> Tensor:
    ranked = rank(
        head=DATA.head,
        loss=loss,
        train_features_NF=DATA.train_NF,
        train_labels_N=DATA.train_labels_N,
        test_features_MF=DATA.test_MF,
        queries=QUERIES,
        config=config,
        dtype=dtype,
    )
    return torch.stack([torch.from_numpy(scores_N) for _, scores_N in ranked])


@pytest.mark.parametrize("settings", LOSSES, ids=lambda settings: getattr(settings, "class_", settings.name))
def test_a_short_step_is_the_limit(settings: LossSettings) -> None:
    loss, radius = ready(settings), 1e-5
    limit_QN = scores(loss, InfluenceConfig(step=FirstOrder(radius=radius)))
    step_QN = scores(loss, InfluenceConfig(step=UnitStep(radius=radius)))
    assert limit_QN.abs().max() > 0
    assert (step_QN - limit_QN).abs().max() < 1e-6 * limit_QN.abs().max()


PROXIES_CD = torch.randn(4, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
LOOPS: list[tuple[LossSettings, Callable[[Tensor, int], float]]] = [
    (ProxyAnchorSettings(), lambda z, y: oracles.proxy_anchor(z, y, PROXIES_CD, margin=0.1, alpha=32)),
    (NormalizedSoftmaxSettings(), lambda z, y: oracles.normalized_softmax(z, y, PROXIES_CD, temperature=0.05)),
    (CosFaceSettings(), lambda z, y: oracles.cosface(z, y, PROXIES_CD, scale=64, margin=0.35)),
    (ArcFaceSettings(), lambda z, y: oracles.arcface(z, y, PROXIES_CD, scale=64, margin=28.6)),
]


@pytest.mark.parametrize(("settings", "loop"), LOOPS, ids=[settings.name for settings, _ in LOOPS])
def test_exact_scores_are_the_loop_of_eq_6(settings: LossSettings, loop: Callable[[Tensor, int], float]) -> None:
    found_QN = scores(ready(settings), InfluenceConfig(step=UnitStep()))
    for query, scores_N in zip(QUERIES, found_QN, strict=True):
        pairs = [(DATA.test_MF[query.pairs[0].row], DATA.test_MF[query.pairs[0].neighbor])]
        gradient_DF = oracles.gradient(DATA.head.weight_DF, DATA.head.bias_D, pairs)
        unit_DF = gradient_DF / gradient_DF.norm()
        wanted = oracles.influence(
            weight_DF=DATA.head.weight_DF,
            bias_D=DATA.head.bias_D,
            moved=[DATA.head.weight_DF + unit_DF, DATA.head.weight_DF - unit_DF],
            x_NF=DATA.train_NF,
            labels=DATA.train_labels_N.tolist(),
            pairs=pairs,
            loss=loop,
            normalize=True,
        )
        assert scores_N.tolist() == pytest.approx(wanted, rel=1e-8, abs=1e-10)


COSINES = [settings for settings in LOSSES if not isinstance(settings, PmlSettings)]


@pytest.mark.parametrize("settings", COSINES, ids=lambda settings: str(settings.name))
@pytest.mark.parametrize("radius", [1.0, 1e-4])
def test_float32_is_enough_on_the_fast_path(settings: LossSettings, radius: float) -> None:
    loss, config = ready(settings), InfluenceConfig(step=UnitStep(radius=radius))
    double_QN, single_QN = scores(loss, config), scores(loss, config, dtype=torch.float32)
    assert (single_QN - double_QN).abs().max() < 1e-4 * double_QN.abs().max()
