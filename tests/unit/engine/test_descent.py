"""Descent against torch.optim."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from eif_engine.functional.descent import Adam, Sgd


def start() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((4, 3), (4,), (2, 2))]


def gradients(step: int) -> list[Tensor | None]:
    """Of all sizes; the last parameter has none at every third step."""
    generator = torch.Generator().manual_seed(step + 1)
    drawn = [torch.randn(p.shape, generator=generator, dtype=torch.float64) * 10.0 ** (step % 5 - 2) for p in start()]
    return [*drawn[:2], None if step % 3 == 0 else drawn[2]]


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_steps_are_those_of_torch(name: str) -> None:
    ours, theirs = start(), [parameter.requires_grad_() for parameter in start()]
    mine = Adam(ours, 0.01) if name == "adam" else Sgd(ours, 0.01)
    other = torch.optim.Adam(theirs, lr=0.01) if name == "adam" else torch.optim.SGD(theirs, lr=0.01)
    for step in range(40):
        given = gradients(step)
        mine.step(given)
        for parameter, gradient in zip(theirs, given, strict=True):
            parameter.grad = None if gradient is None else gradient.clone()
        other.step()
        for one, two in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, two.detach(), rtol=1e-12, atol=1e-12)
