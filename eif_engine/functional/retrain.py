"""Retraining the head, and the proxies of its loss, from a checkpoint over cached features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from eif_engine.counterfactual_config import RetrainConfig, RetrainOptimizer
from eif_engine.errors import InvalidInput
from eif_engine.functional.cosine_gradient import cosine_gradient
from eif_engine.functional.descent import Adam, Descent, Sgd
from eif_engine.losses.base import ProxyLoss
from eif_engine.losses.proxies import CosineProxies
from eif_engine.models.head import Head


def retrain_head(
    head: Head,
    loss: ProxyLoss,
    *,
    x_NF: Tensor,
    labels_N: Tensor,
    weights_N: Tensor,
    config: RetrainConfig,
) -> tuple[Head, ProxyLoss]:
    """Minimise the weighted loss from where head and loss are now; neither is changed.

    A step goes down the gradient of `1/B sum over the batch of weight * L`: a weight of 0 is a sample that is not
    there, 2 is one that is there twice, and the step of the others does not depend on it.

    Raises:
        InvalidInput: The proxies are to be trained, but this loss has no tensors of its own.
    """
    weight_DF, bias_D = (part.detach().clone().requires_grad_() for part in (head.weight_DF, head.bias_D))
    proxies = leaves(loss) if config.train_proxies else {}
    parameters = [weight_DF, bias_D, *proxies.values()]
    optimizer = make_optimizer(parameters, config)
    moving = with_leaves(loss, proxies)  # in step with the parameters, which are moved in place
    for epoch in range(config.epochs):
        for rows_B in epoch_rows(len(labels_N), config, epoch=epoch):
            x_BF, labels_B, weights_B = x_NF[rows_B], labels_N[rows_B], weights_N[rows_B]
            if isinstance(moving, CosineProxies):
                share_B = weights_B / len(rows_B)
                with torch.no_grad():
                    found = cosine_gradient(weight_DF, bias_D, moving, x_BF=x_BF, labels_B=labels_B, share_B=share_B)
                optimizer.step(found[: len(parameters)])
                continue
            with torch.enable_grad():
                z_BD = torch.addmm(bias_D, x_BF, weight_DF.T)
                step(optimizer, parameters, weights_B * moving.per_sample(z_BD, labels_B))
    return Head(weight_DF.detach(), bias_D.detach()), with_leaves(
        loss, {name: value.detach() for name, value in proxies.items()}
    )


def epoch_rows(count: int, config: RetrainConfig, *, epoch: int) -> Iterator[Tensor]:
    """The batches of an epoch as rows (B,): a shuffle that depends on the seed and the epoch alone."""
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
    yield from torch.split(torch.randperm(count, generator=generator), config.batch_size)


def step(optimizer: Descent, parameters: Sequence[Tensor], weighted_B: Tensor) -> None:
    """One step down the gradient of the mean of the weighted losses of a batch."""
    optimizer.step(torch.autograd.grad(weighted_B.mean(), parameters, allow_unused=True))


def make_optimizer(parameters: Sequence[Tensor], config: RetrainConfig) -> Descent:
    """The optimiser of a configuration."""
    kind = Adam if config.optimizer is RetrainOptimizer.ADAM else Sgd
    return kind(parameters, config.learning_rate)


def leaves(loss: ProxyLoss) -> dict[str, Tensor]:
    """Copies of the tensors of a loss, by field, that gradients reach.

    Raises:
        InvalidInput: It has none.
    """
    owner: Any = loss  # a loss is a protocol; only those that are dataclasses can be copied with other tensors
    values = {field.name: getattr(owner, field.name) for field in fields(owner)} if is_dataclass(owner) else {}
    found = {
        name: value.detach().clone().requires_grad_()
        for name, value in values.items()
        if isinstance(value, Tensor) and value.is_floating_point()
    }
    if not found:
        raise InvalidInput(
            f"the loss {type(loss).__name__} has no proxies that could be trained: set train_proxies to false",
            field="train_proxies",
        )
    return found


def with_leaves(loss: ProxyLoss, tensors: dict[str, Tensor]) -> ProxyLoss:
    """The same loss with other tensors."""
    if not tensors:
        return loss
    return cast("ProxyLoss", replace(cast("Any", loss), **tensors))
