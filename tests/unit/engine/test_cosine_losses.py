"""The fast path of every loss of cosines: the same losses, slopes and changes as the loss itself at float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from eif_engine.losses.angular_margin import AngularMargin
from eif_engine.losses.arcface import ArcFace
from eif_engine.losses.cosface import CosFace
from eif_engine.losses.cosine import CosineLoss
from eif_engine.losses.normalized_softmax import NormalizedSoftmax
from eif_engine.losses.proxy_anchor import ProxyAnchor
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
        "proxy_anchor": ProxyAnchor(draw(C, D)),
        "proxy_anchor_sharp": ProxyAnchor(draw(C, D), margin=0.3, alpha=120),
        "normalized_softmax": NormalizedSoftmax(draw(C, D)),
        "cosface": CosFace(draw(C, D)),
        "arcface": ArcFace(draw(C, D)),
        "arcface_wide": ArcFace(draw(C, D), scale=16, margin=100),
    }


NAMES = (
    "proxy_nca",
    "proxy_nca_sharp",
    "soft_triple_1",
    "soft_triple_4",
    "proxy_anchor",
    "proxy_anchor_sharp",
    "normalized_softmax",
    "cosface",
    "arcface",
    "arcface_wide",
)


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
    found_B = loss.at(cosines(z_BD, loss), labels_B).change(delta_BP[None])[0]
    torch.testing.assert_close(found_B, wanted_B, rtol=1e-9, atol=1e-12)


def test_tiny_changes_keep_the_accuracy_of_float32(loss: CosineLoss, draw: Draw) -> None:
    z_BD, labels_B = draw(B, D), torch.arange(B) % C
    cosine_BP, delta_BP = cosines(z_BD, loss), 1e-7 * draw(B, len(loss.representatives_PD))
    state = loss.at(cosine_BP.clone(), labels_B)
    wanted_B = state.change(delta_BP[None].clone())[0]
    single = loss.to(device="cpu", dtype=torch.float32).at(cosine_BP.float(), labels_B)
    size_B = (state.slope().abs() * delta_BP.abs()).sum(1)
    assert ((single.change(delta_BP[None].float())[0].double() - wanted_B).abs() <= 3e-5 * size_B).all()


def test_large_exponents_do_not_overflow(draw: Draw) -> None:
    loss = ProxyNCA(draw(C, D).float(), scale=9.0)
    z_BD, labels_B = draw(B, D).float(), torch.arange(B) % C
    found_B = loss.at(cosines(z_BD, loss), labels_B).change((cosines(-z_BD, loss) - cosines(z_BD, loss))[None])[0]
    wanted_B = loss.per_sample(-z_BD, labels_B) - loss.per_sample(z_BD, labels_B)
    torch.testing.assert_close(found_B, wanted_B, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", ["proxy_anchor_sharp", "cosface", "arcface"])
def test_margins_do_not_overflow_float32(draw: Draw, name: str) -> None:
    loss = losses(draw)[name]
    sharp = ProxyAnchor(loss.representatives_PD, alpha=900) if name == "proxy_anchor_sharp" else loss
    single = sharp.to(device="cpu", dtype=torch.float32)
    z_BD, labels_B = draw(B, D), torch.arange(B) % C
    cosine_BP, delta_BP = cosines(z_BD, loss), cosines(-z_BD, loss) - cosines(z_BD, loss)
    found_B = single.at(cosine_BP.float(), labels_B).change(delta_BP[None].float())[0]
    wanted_B = sharp.per_sample(-z_BD, labels_B) - sharp.per_sample(z_BD, labels_B)
    torch.testing.assert_close(found_B.double(), wanted_B, rtol=1e-4, atol=1e-3)


def test_thetas_are_worked_on_together(loss: CosineLoss, draw: Draw) -> None:
    state = loss.at(cosines(draw(B, D), loss), torch.arange(B) % C)
    delta_TBP = 1e-2 * draw(3, B, len(loss.representatives_PD))
    alone = [state.change(delta_BP[None].clone())[0] for delta_BP in delta_TBP]
    torch.testing.assert_close(state.change(delta_TBP.clone()), torch.stack(alone), rtol=1e-13, atol=0)


@pytest.mark.parametrize("size", [1e-3, 0.1, 1.0])
def test_thetas_do_not_depend_on_which_come_together(loss: CosineLoss, draw: Draw, size: float) -> None:
    labels_B, cosine_BP = torch.arange(B) % C, cosines(draw(B, D), loss)
    state = loss.at(cosine_BP.clone(), labels_B)
    sizes_T = torch.tensor([size, 1e-5 * size, 10 * size], dtype=torch.float64)
    delta_TBP = (sizes_T[:, None, None] * draw(3, *cosine_BP.shape)).clamp(-1 - cosine_BP, 1 - cosine_BP)
    together_TB = state.change(delta_TBP.clone())
    for delta_BP, wanted_B in zip(delta_TBP, together_TB, strict=True):
        assert torch.equal(state.change(delta_BP[None].clone())[0], wanted_B)


EDGE = -math.cos(math.radians(28.6))  # cosine of the angle pi - margin


@pytest.mark.parametrize(
    ("cosine", "moved"),
    [
        (0.3, 0.3 + 1e-7),
        (1.0, 1.0 - 1e-7),  # where the slope is unbounded
        (1.0, 0.4),
        (0.4, 1.0),
        (1.0, 1.0),
        (-1.0, -1.0 + 1e-7),
        (EDGE + 1e-3, EDGE - 1e-3),
        (EDGE - 1e-3, EDGE + 1e-3),
        (EDGE - 1e-3, EDGE - 2e-3),
        (-0.99, 0.9),
        (0.9, -0.99),
        (0.5, -1.0),
    ],
)
def test_the_angular_margin_changes_as_its_value(cosine: float, moved: float) -> None:
    """Also over the edge, where the value has a step, and at both ends."""
    start = AngularMargin(torch.tensor([cosine], dtype=torch.float64), 28.6)
    end = AngularMargin(torch.tensor([moved], dtype=torch.float64), 28.6)
    change = start.change(torch.tensor([moved - cosine], dtype=torch.float64))
    torch.testing.assert_close(change, end.value - start.value, rtol=1e-7, atol=1e-14)


def test_the_angular_margin_takes_rounding_past_one_for_one() -> None:
    above = AngularMargin(torch.tensor([1 + 1e-12, -1 - 1e-12], dtype=torch.float64), 28.6)
    exact = AngularMargin(torch.tensor([1.0, -1.0], dtype=torch.float64), 28.6)
    assert above.value.tolist() == exact.value.tolist()
    assert above.change(torch.tensor([1e-12, -1e-12], dtype=torch.float64)).tolist() == [0.0, 0.0]
    assert torch.isfinite(above.slope()).all()


def test_no_change_is_none(loss: CosineLoss, draw: Draw) -> None:
    state = loss.at(cosines(draw(B, D), loss), torch.arange(B) % C)
    assert state.change(torch.zeros(1, B, len(loss.representatives_PD), dtype=torch.float64)).eq(0).all()
