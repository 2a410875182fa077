"""The fast path of every loss of cosines: the same losses, slopes and changes as the loss itself at float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from eif_engine.losses.cosine import CosineLoss
from eif_engine.losses.proxy_nca import ProxyNCA
from eif_engine.losses.soft_triple import SoftTriple

Draw = Callable[..., Tensor]

B, D, C = 40, 16, 7


@pytest.fixture
def draw() -> Draw:
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)


def losses(draw: Draw) -> dict[str, CosineLoss]:
    return {
        "proxy_nca": ProxyNCA(draw(C, D)),
        "proxy_nca_sharp": ProxyNCA(draw(C, D), scale=9.0),
        "soft_triple_1": SoftTriple(draw(C, 1, D)),
        "soft_triple_4": SoftTriple(draw(C, 4, D)),
    }


NAMES = ("proxy_nca", "proxy_nca_sharp", "soft_triple_1", "soft_triple_4")


@pytest.fixture(params=NAMES)
def loss(request: pytest.FixtureRequest, draw: Draw) -> CosineLoss:
    return losses(draw)[request.param]


def cosines(z_BD: Tensor, loss: CosineLoss) -> Tensor:
    return F.normalize(z_BD, dim=1) @ loss.representatives_PD.T


def test_base_is_the_loss(loss: CosineLoss, draw: Draw) -> None:
    z_BD, labels_B = draw(B, D), torch.arange(B) % C
    torch.testing.assert_close(
        loss.at(cosines(z_BD, loss), labels_B).base_B, loss.per_sample(z_BD, labels_B), rtol=1e-12, atol=1e-12
    )


def test_slope_is_the_gradient(loss: CosineLoss, draw: Draw) -> None:
    z_BD, labels_B = draw(B, D).requires_grad_(), torch.arange(B) % C
    (wanted_BD,) = torch.autograd.grad(loss.per_sample(z_BD, labels_B).sum(), z_BD)
    cosine_BP = cosines(z_BD, loss)
    slope_BP = loss.at(cosine_BP.detach().clone(), labels_B).slope()
    (found_BD,) = torch.autograd.grad((slope_BP * cosine_BP).sum(), z_BD)
    torch.testing.assert_close(found_BD, wanted_BD, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("size", [1.0, 1e-3])
def test_change_is_the_difference(loss: CosineLoss, draw: Draw, size: float) -> None:
    z_BD, labels_B = draw(B, D), torch.arange(B) % C
    moved_BD = z_BD + size * draw(B, D)
    wanted_B = loss.per_sample(moved_BD, labels_B) - loss.per_sample(z_BD, labels_B)
    delta_BP = cosines(moved_BD, loss) - cosines(z_BD, loss)
    found_B = loss.at(cosines(z_BD, loss), labels_B).change(delta_BP)
    torch.testing.assert_close(found_B, wanted_B, rtol=1e-9, atol=1e-12)


def test_tiny_changes_keep_the_accuracy_of_float32(loss: CosineLoss, draw: Draw) -> None:
    z_BD, labels_B = draw(B, D), torch.arange(B) % C
    cosine_BP, delta_BP = cosines(z_BD, loss), 1e-7 * draw(B, len(loss.representatives_PD))
    state = loss.at(cosine_BP.clone(), labels_B)
    wanted_B = state.change(delta_BP.clone())
    single = loss.to(device="cpu", dtype=torch.float32).at(cosine_BP.float(), labels_B)
    size_B = (state.slope().abs() * delta_BP.abs()).sum(1)
    assert ((single.change(delta_BP.float()).double() - wanted_B).abs() <= 3e-5 * size_B).all()


def test_large_exponents_do_not_overflow(draw: Draw) -> None:
    loss = ProxyNCA(draw(C, D).float(), scale=9.0)
    z_BD, labels_B = draw(B, D).float(), torch.arange(B) % C
    found_B = loss.at(cosines(z_BD, loss), labels_B).change(cosines(-z_BD, loss) - cosines(z_BD, loss))
    wanted_B = loss.per_sample(-z_BD, labels_B) - loss.per_sample(z_BD, labels_B)
    torch.testing.assert_close(found_B, wanted_B, rtol=1e-4, atol=1e-3)
