"""Empirical influence (eq. 6).

    I(x, P) = mean over theta of  (d(P; theta) - d(P; theta_0)) (L(x; theta) - L(x; theta_0)) / |theta - theta_0|

I > 0 is harmful: moving the model so that the pair comes apart makes the loss of x grow, and bringing it together makes
it fall, so learning x holds the confusion in place. It is the product, not the quotient.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from eif_engine.functional.theta import Theta
from eif_engine.losses.base import ProxyLoss


def influence(
    *,
    thetas: Sequence[Theta],
    x_NF: Tensor,
    z_ND: Tensor,
    labels_N: Tensor,
    base_loss_N: Tensor,
    x_RF: Tensor,
    loss: ProxyLoss,
    normalize: bool,
) -> Tensor:
    """Influence (N,) of training samples on the query with pair rows x_RF; zeros when there is no theta.

    Args:
        thetas: Where the head is moved to.
        x_NF: Features of the samples.
        z_ND: Their embeddings at theta_0.
        labels_N: Their class indices.
        base_loss_N: Their losses at theta_0.
        x_RF: Features of the query's pairs.
        loss: The loss the model was trained with.
        normalize: Divide by |theta - theta_0|; the published code does not.
    """
    score_N = torch.zeros_like(base_loss_N)
    gram_NR = x_NF @ x_RF.T
    for theta in thetas:
        moved_loss_N = loss.per_sample(z_ND + theta.displace(x_NF, gram_NR), labels_N)
        weight = theta.distance_change / len(thetas)
        if normalize:
            weight = weight / theta.norm if theta.norm > 0 else 0.0
        score_N += weight * (moved_loss_N - base_loss_N)
    return score_N
