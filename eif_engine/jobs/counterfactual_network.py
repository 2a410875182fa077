"""The counterfactual check with the whole network retrained from images, as published."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from eif_engine.config import Distance
from eif_engine.counterfactual_config import RetrainConfig
from eif_engine.errors import InvalidInput
from eif_engine.functional.retrain import epoch_rows, leaves, make_optimizer, step, with_leaves
from eif_engine.jobs.counterfactual import compare_arms
from eif_engine.jobs.counterfactual_report import CounterfactualReport
from eif_engine.jobs.intervention import Intervention
from eif_engine.losses.base import ProxyLoss
from eif_engine.models.head import Head
from eif_engine.types import Progress, Query, no_progress

Batches = Iterable[tuple[Tensor, Tensor]]
"""Row numbers (B,) and images (B, ...) of the training set, batch by batch; the same every time it is gone through."""


class ShuffledImages:
    """Images in memory as batches for retraining: all epochs of a configuration in a row, shuffled by its seed."""

    def __init__(self, images_NCHW: Tensor, config: RetrainConfig) -> None:
        self._images_NCHW, self._config = images_NCHW, config

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for epoch in range(self._config.epochs):
            for rows_B in epoch_rows(len(self._images_NCHW), self._config, epoch=epoch):
                yield rows_B, self._images_NCHW[rows_B]


def counterfactual_network(
    *,
    backbone: nn.Module,
    head: Head,
    loss: ProxyLoss,
    train_batches: Batches,
    train_labels_N: Tensor,
    test_batches: Iterable[Tensor],
    test_labels: Sequence[str],
    query: Query,
    arms: Mapping[str, Intervention | Sequence[Intervention]],
    config: RetrainConfig,
    freeze_batch_norm: bool = False,
    distance: Distance = Distance.SQUARED_EUCLIDEAN,
    progress: Progress = no_progress,
) -> CounterfactualReport:
    """Retrain backbone, head and proxies once for every arm. Nothing given is changed; it runs where the backbone is.

    Args:
        backbone: Images to penultimate features (B, F).
        head: The last linear layer at the checkpoint.
        loss: The loss the model was trained with.
        train_batches: All that a retraining goes through, `config.epochs` included; `ShuffledImages` for images in
            memory. Of `config`, the optimiser, the learning rate and the proxies count here.
        train_labels_N: Class indices of the training samples, as given.
        test_batches: Test images (B, ...) in the order of the test set; gone through once for every arm.
        test_labels: Their labels.
        query: The confusion; its rows are rows of the test set.
        arms: As for `counterfactual`.
        config: How to retrain.
        freeze_batch_norm: Keep batch norm's statistics; otherwise the network is in training mode, as published.
        distance: Distance of a pair.
        progress: Called after each retraining.

    Raises:
        InvalidInput: An arm does not fit the training set, retraining diverged, or the batches are not the same for
            every arm.
    """
    place = next(backbone.parameters())
    head, loss = (part.to(device=place.device, dtype=place.dtype) for part in (head, loss))  # type: ignore[assignment]  # each keeps its own type
    same = _SameBatches(train_batches)

    def retrain(change: Intervention) -> Tensor:
        moved = _Network(backbone, head, loss, train_proxies=config.train_proxies)
        moved.fit(same, change, config, freeze_batch_norm=freeze_batch_norm)
        return moved.embed(test_batches)

    return compare_arms(
        retrain,
        checkpoint_MD=_Network(backbone, head, loss, train_proxies=False).embed(test_batches),
        train_labels_N=train_labels_N,
        num_classes=loss.num_classes,
        test_labels=test_labels,
        query=query,
        arms=arms,
        distance=distance,
        progress=progress,
    )


class _Network:
    """A copy of a model that may be trained."""

    def __init__(self, backbone: nn.Module, head: Head, loss: ProxyLoss, *, train_proxies: bool) -> None:
        self._backbone = copy.deepcopy(backbone).requires_grad_()
        self._weight_DF, self._bias_D = (part.detach().clone() for part in (head.weight_DF, head.bias_D))
        self._loss, self._proxies = loss, leaves(loss) if train_proxies else {}
        self._place = self._weight_DF

    def fit(self, batches: Batches, change: Intervention, config: RetrainConfig, *, freeze_batch_norm: bool) -> None:
        weights_N = change.weights_N.to(self._place.device, self._place.dtype)
        labels_N = change.labels_N.to(self._place.device)
        tensors = [self._weight_DF.requires_grad_(), self._bias_D.requires_grad_(), *self._proxies.values()]
        parameters = [*self._backbone.parameters(), *tensors]
        optimizer = make_optimizer(parameters, config)
        self._backbone.train()
        if freeze_batch_norm:
            for module in self._backbone.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001 - torch names the family only there
                    module.eval()
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)  # dropout, where a network has some, falls alike in every arm
            for rows_B, images in batches:
                z_BD = self._head(self._backbone(images.to(self._place.device, self._place.dtype)))
                rows_B = rows_B.to(self._place.device)  # noqa: PLW2901 - the same rows, elsewhere
                losses_B = with_leaves(self._loss, self._proxies).per_sample(z_BD, labels_N[rows_B])
                step(optimizer, parameters, weights_N[rows_B] * losses_B)

    @torch.no_grad()
    def embed(self, batches: Iterable[Tensor]) -> Tensor:
        self._backbone.eval()
        found = [self._head(self._backbone(images.to(self._place.device, self._place.dtype))) for images in batches]
        return torch.cat(found)

    def _head(self, x_BF: Tensor) -> Tensor:
        return torch.addmm(self._bias_D, x_BF, self._weight_DF.T)


class _SameBatches:
    """Batches that are held to be the same rows every time."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self._rows: list[Tensor] | None = None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        seen: list[Tensor] = []
        for rows_B, images in self._batches:
            seen.append(rows_B.cpu())
            yield rows_B, images
        if self._rows is None:
            self._rows = seen
        if len(seen) != len(self._rows) or not all(map(torch.equal, seen, self._rows)):
            raise InvalidInput(
                "train_batches gave other rows the second time: arms can only be compared over the same batches",
                field="train_batches",
            )
