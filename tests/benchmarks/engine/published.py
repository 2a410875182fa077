"""The procedure as published, written plainly: the baseline of the speed figures.

Per pair: move a copy of the head along the gradient of the distance, then pass every training sample through it with
batch size 1, twice per theta (before and after), and multiply the changes. Head only, features cached.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from eif_engine.losses.base import ProxyLoss
from eif_engine.models.head import Head


def published_scores(
    *, head: Head, loss: ProxyLoss, x_NF: Tensor, labels_N: Tensor, pair_RF: Tensor, radius: float, thetas: int
) -> Tensor:
    """Influence (N,) of the samples on one pair; a unit step, as the scorer is asked for here."""
    D, F = head.weight_DF.shape
    layer = nn.Linear(F, D).to(x_NF.dtype)
    with torch.no_grad():
        layer.weight.copy_(head.weight_DF)
        layer.bias.copy_(head.bias_D)
    start = _distance(layer, pair_RF)
    (gradient_DF,) = torch.autograd.grad(start, layer.weight)
    scores_N = torch.zeros(len(x_NF), dtype=x_NF.dtype)
    for sign in (1.0, -1.0)[:thetas]:
        moved = copy.deepcopy(layer)
        with torch.no_grad():
            moved.weight += sign * radius * gradient_DF / gradient_DF.norm()
            apart = _distance(moved, pair_RF) - start
            for row in range(len(x_NF)):
                x_BF, labels_B = x_NF[row : row + 1], labels_N[row : row + 1]
                change = loss.per_sample(moved(x_BF), labels_B) - loss.per_sample(layer(x_BF), labels_B)
                scores_N[row] += (apart * change[0]) / radius / thetas
    return scores_N


def _distance(layer: nn.Linear, pair_RF: Tensor) -> Tensor:
    left, right = nn.functional.normalize(layer(pair_RF), dim=1)
    squared: Tensor = (left - right).square().sum()
    return squared
