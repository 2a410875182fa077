from __future__ import annotations

import pytest
import torch

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
