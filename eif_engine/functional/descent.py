"""Steps down a gradient: Adam (Kingma and Ba, ICLR 2015, algorithm 1) and plain gradient descent.

torch.optim does the same, but its first optimiser imports torch's compiler, which takes as long as importing torch; a
job that retrains a head for a second must not wait for that. Tests hold these against torch.optim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

_BETA, _BETA_SQUARE, _EPSILON = 0.9, 0.999, 1e-8


class Descent(Protocol):
    """Moves parameters."""

    def step(self, gradients: Sequence[Tensor | None]) -> None:
        """One step down their gradients, in place; a parameter without one stays."""
        ...


class Sgd:
    """`p -= lr * g`."""

    def __init__(self, parameters: Sequence[Tensor], learning_rate: float) -> None:
        self._parameters, self._learning_rate = parameters, learning_rate

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor | None]) -> None:
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            if gradient is not None:
                parameter.sub_(gradient, alpha=self._learning_rate)


class Adam:
    """`p -= lr * m / (sqrt(v) + 1e-8)` of the bias-corrected means m and v of gradients and their squares."""

    def __init__(self, parameters: Sequence[Tensor], learning_rate: float) -> None:
        self._parameters, self._learning_rate = parameters, learning_rate
        self._means = [torch.zeros_like(parameter) for parameter in parameters]
        self._squares = [torch.zeros_like(parameter) for parameter in parameters]
        self._spreads = [torch.empty_like(parameter) for parameter in parameters]
        self._steps = [0] * len(parameters)

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor | None]) -> None:
        for place, gradient in enumerate(gradients):
            if gradient is None:
                continue
            self._steps[place] += 1
            mean, square, steps = self._means[place], self._squares[place], self._steps[place]
            mean.lerp_(gradient, 1 - _BETA)
            square.mul_(_BETA_SQUARE).addcmul_(gradient, gradient, value=1 - _BETA_SQUARE)
            spread = torch.sqrt(square, out=self._spreads[place]).div_((1 - _BETA_SQUARE**steps) ** 0.5).add_(_EPSILON)
            self._parameters[place].addcdiv_(mean, spread, value=-self._learning_rate / (1 - _BETA**steps))
