from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from eif_engine.losses.arcface import ArcFace
from eif_engine.losses.base import ProxyLoss
from eif_engine.losses.cosface import CosFace
from eif_engine.losses.normalized_softmax import NormalizedSoftmax
from eif_engine.losses.proxy_anchor import ProxyAnchor
from eif_engine.losses.proxy_nca import ProxyNCA
from eif_engine.losses.soft_triple import SoftTriple
from tests import oracles
from tests.toy import toy


def test_proxy_nca_is_the_paper_s_loop() -> None:
    data = toy()
    z_ND = data.head.embed(data.train_NF)
    expected = [
        oracles.proxy_nca(z, int(label), data.proxy_nca.proxies_CD, 3.0)
        for z, label in zip(z_ND, data.train_labels_N, strict=True)
    ]
    assert data.proxy_nca.per_sample(z_ND, data.train_labels_N).tolist() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("centers", [1, 2, 5])
def test_soft_triple_is_the_paper_s_loop(centers: int) -> None:
    data = toy()
    generator = torch.Generator().manual_seed(centers)
    loss = SoftTriple(torch.randn(4, centers, 5, generator=generator, dtype=torch.float64), 20.0, 0.1, 0.01)
    z_ND = data.head.embed(data.train_NF)
    expected = [
        oracles.soft_triple(z, int(label), loss.centers_CKD, lambda_=20.0, gamma=0.1, margin=0.01)
        for z, label in zip(z_ND, data.train_labels_N, strict=True)
    ]
    assert loss.per_sample(z_ND, data.train_labels_N).tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


PROXIES_CD = toy().proxy_nca.proxies_CD
# Embeddings of the toy, and with them their opposites: angles past pi - margin, where ArcFace has its other branch.
Z_ND = torch.cat([toy().head.embed(toy().train_NF), -PROXIES_CD, 2 * PROXIES_CD])
LABELS_N = torch.cat([toy().train_labels_N, torch.arange(4), torch.arange(4)])
LOOPS: dict[str, tuple[ProxyLoss, Callable[[Tensor, int], float]]] = {
    "proxy_anchor": (
        ProxyAnchor(PROXIES_CD),
        lambda z, y: oracles.proxy_anchor(z, y, PROXIES_CD, margin=0.1, alpha=32),
    ),
    "proxy_anchor_sharp": (
        ProxyAnchor(PROXIES_CD, margin=0.3, alpha=900),
        lambda z, y: oracles.proxy_anchor(z, y, PROXIES_CD, margin=0.3, alpha=900),
    ),
    "normalized_softmax": (
        NormalizedSoftmax(PROXIES_CD),
        lambda z, y: oracles.normalized_softmax(z, y, PROXIES_CD, temperature=0.05),
    ),
    "cosface": (CosFace(PROXIES_CD), lambda z, y: oracles.cosface(z, y, PROXIES_CD, scale=64, margin=0.35)),
    "arcface": (ArcFace(PROXIES_CD), lambda z, y: oracles.arcface(z, y, PROXIES_CD, scale=64, margin=28.6)),
    "arcface_wide": (
        ArcFace(PROXIES_CD, scale=8, margin=120),
        lambda z, y: oracles.arcface(z, y, PROXIES_CD, scale=8, margin=120),
    ),
    "arcface_none": (
        ArcFace(PROXIES_CD, scale=8, margin=0),
        lambda z, y: oracles.arcface(z, y, PROXIES_CD, scale=8, margin=0),
    ),
}


@pytest.mark.parametrize("name", LOOPS)
def test_losses_of_proxies_are_the_paper_s_loop(name: str) -> None:
    loss, loop = LOOPS[name]
    expected = [loop(z_D, int(label)) for z_D, label in zip(Z_ND, LABELS_N, strict=True)]
    # At an angle of 0 an error of 1e-16 in the cosine is one of 1e-8 in the angle.
    assert loss.per_sample(Z_ND, LABELS_N).tolist() == pytest.approx(expected, rel=1e-6, abs=1e-12)
    assert loss.per_sample(Z_ND[:-4], LABELS_N[:-4]).tolist() == pytest.approx(expected[:-4], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", LOOPS)
def test_losses_of_proxies_move_and_know_their_sizes(name: str) -> None:
    loss, _ = LOOPS[name]
    moved = loss.to(device="cpu", dtype=torch.float32)
    assert (moved.num_classes, moved.embedding_dim) == (4, 5)
    assert moved.per_sample(Z_ND[:24].float(), LABELS_N[:24]).dtype is torch.float32
    assert loss.per_sample(Z_ND, LABELS_N).dtype is torch.float64
    back = moved.to(device="cpu", dtype=torch.float64)
    torch.testing.assert_close(
        back.per_sample(Z_ND[:24], LABELS_N[:24]), loss.per_sample(Z_ND[:24], LABELS_N[:24]), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("name", LOOPS)
def test_gradients_are_finite_where_a_sample_is_its_proxy(name: str) -> None:
    loss, _ = LOOPS[name]
    z_CD = loss.representatives_PD.clone().requires_grad_()  # type: ignore[attr-defined]  # all of these have them
    (gradient_CD,) = torch.autograd.grad(loss.per_sample(z_CD, torch.arange(4)).sum(), z_CD)
    assert torch.isfinite(gradient_CD).all()


def test_losses_ignore_the_length_of_embeddings_and_proxies() -> None:
    data = toy()
    z_ND, labels_N = data.head.embed(data.train_NF), data.train_labels_N
    longer = ProxyNCA(7 * data.proxy_nca.proxies_CD, 3.0).per_sample(5 * z_ND, labels_N)
    torch.testing.assert_close(longer, data.proxy_nca.per_sample(z_ND, labels_N))


def test_moving_a_loss_makes_a_new_one() -> None:
    loss = toy().soft_triple
    moved = loss.to(device="cpu", dtype=torch.float32)
    assert moved.centers_CKD.dtype is torch.float32
    assert loss.centers_CKD.dtype is torch.float64
    assert (moved.num_classes, moved.embedding_dim) == (4, 5)
