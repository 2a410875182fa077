"""The closed form against autograd."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from eif_engine.counterfactual_config import RetrainConfig, RetrainOptimizer
from eif_engine.functional.cosine_gradient import cosine_gradient
from eif_engine.functional.retrain import epoch_rows, leaves, make_optimizer, retrain_head, step, with_leaves
from eif_engine.losses.arcface import ArcFace
from eif_engine.losses.cosface import CosFace
from eif_engine.losses.normalized_softmax import NormalizedSoftmax
from eif_engine.losses.proxies import CosineProxies
from eif_engine.losses.proxy_anchor import ProxyAnchor
from eif_engine.losses.proxy_nca import ProxyNCA
from tests.toy import toy

DATA = toy(train=60)
PROXIES_CD = DATA.proxy_nca.proxies_CD
LOSSES: dict[str, CosineProxies] = {
    "proxy_nca": ProxyNCA(PROXIES_CD, 3.0),
    "proxy_anchor": ProxyAnchor(PROXIES_CD, alpha=8),
    "normalized_softmax": NormalizedSoftmax(PROXIES_CD, 0.2),
    "cosface": CosFace(PROXIES_CD, 16, 0.3),
    "arcface": ArcFace(PROXIES_CD, 16, 30),
}
WEIGHTS_N = torch.arange(60, dtype=torch.float64) % 3


def by_autograd(loss: CosineProxies, share_N: Tensor) -> tuple[Tensor, ...]:
    weight_DF, bias_D = (part.clone().requires_grad_() for part in (DATA.head.weight_DF, DATA.head.bias_D))
    proxies = leaves(loss)
    with torch.enable_grad():
        moving = with_leaves(loss, proxies)
        z_ND = torch.addmm(bias_D, DATA.train_NF, weight_DF.T)
        total = (share_N * moving.per_sample(z_ND, DATA.train_labels_N)).sum()
    return torch.autograd.grad(total, [weight_DF, bias_D, *proxies.values()])


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_is_that_of_autograd(name: str) -> None:
    loss = LOSSES[name]
    share_N = WEIGHTS_N / 7
    found = cosine_gradient(
        DATA.head.weight_DF,
        DATA.head.bias_D,
        loss,
        x_BF=DATA.train_NF,
        labels_B=DATA.train_labels_N,
        share_B=share_N,
    )
    for one, two in zip(found, by_autograd(loss, share_N), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("train_proxies", [True, False])
@pytest.mark.parametrize("name", LOSSES)
def test_retraining_follows_autograd_step_by_step(name: str, train_proxies: bool) -> None:
    loss = LOSSES[name]
    config = RetrainConfig(
        epochs=3, optimizer=RetrainOptimizer.ADAM, learning_rate=0.01, batch_size=7, train_proxies=train_proxies
    )
    head, after = retrain_head(
        DATA.head, loss, x_NF=DATA.train_NF, labels_N=DATA.train_labels_N, weights_N=WEIGHTS_N, config=config
    )
    weight_DF, bias_D = (part.clone().requires_grad_() for part in (DATA.head.weight_DF, DATA.head.bias_D))
    proxies = leaves(loss) if train_proxies else {}
    parameters = [weight_DF, bias_D, *proxies.values()]
    optimizer = make_optimizer(parameters, config)
    for epoch in range(config.epochs):
        for rows_B in epoch_rows(60, config, epoch=epoch):
            with torch.enable_grad():
                z_BD = torch.addmm(bias_D, DATA.train_NF[rows_B], weight_DF.T)
                loss_B = with_leaves(loss, proxies).per_sample(z_BD, DATA.train_labels_N[rows_B])
                step(optimizer, parameters, WEIGHTS_N[rows_B] * loss_B)
    torch.testing.assert_close(head.weight_DF, weight_DF.detach(), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(head.bias_D, bias_D.detach(), rtol=1e-8, atol=1e-10)
    assert isinstance(after, CosineProxies)
    expected_CD = proxies["proxies_CD"].detach() if train_proxies else PROXIES_CD
    torch.testing.assert_close(after.proxies_CD, expected_CD, rtol=1e-8, atol=1e-10)


def test_the_given_tensors_are_left_alone() -> None:
    before = [part.clone() for part in (DATA.train_NF, PROXIES_CD, DATA.head.weight_DF, WEIGHTS_N)]
    retrain_head(
        DATA.head,
        LOSSES["proxy_nca"],
        x_NF=DATA.train_NF,
        labels_N=DATA.train_labels_N,
        weights_N=WEIGHTS_N,
        config=RetrainConfig(batch_size=8),
    )
    for one, two in zip(before, (DATA.train_NF, PROXIES_CD, DATA.head.weight_DF, WEIGHTS_N), strict=True):
        assert torch.equal(one, two)
