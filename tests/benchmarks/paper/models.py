"""Trained models as case files, kept in a folder outside of git so that a second run is quick."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eif_engine.cases import Case, load_case
from eif_engine.models.small import conv4
from tests.benchmarks.paper.data import Split
from tests.benchmarks.paper.flips import Noise, flip, nearest_classes
from tests.benchmarks.paper.network import CENTERS, LossName, Network, Size, features, train

SHARES = (0.01, 0.05, 0.1)


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What a model is trained on: the labels as they are (share 0), or a share of them flipped."""

    loss: LossName
    seed: int
    share: float = 0.0
    noise: Noise = Noise.UNIFORM

    @property
    def name(self) -> str:
        """For files and tables."""
        return f"{self.loss}-{f'{self.noise}{100 * self.share:g}' if self.share else 'clean'}-seed{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Model:
    """A trained model and the truth about its labels.

    Attributes:
        condition: What it was trained on.
        path: Its case file.
        case: Its arrays, float64.
        clean_N: The true class indices of the training samples.
    """

    condition: Condition
    path: Path
    case: Case
    clean_N: NDArray[np.int64]

    @property
    def flipped_N(self) -> NDArray[np.bool_]:
        """Which labels are wrong."""
        wrong: NDArray[np.bool_] = self.case.train_labels_N.numpy() != self.clean_N
        return wrong

    def backbone(self, size: Size, image_shape: tuple[int, ...]) -> nn.Module:
        """The network below the head, in eval mode."""
        module = conv4(in_channels=image_shape[0], width=size.width, image_size=image_shape[1])
        with np.load(self.path, allow_pickle=False) as file:
            state = {key.removeprefix("backbone/"): torch.from_numpy(file[key]) for key in file.files if "/" in key}
        module.load_state_dict(state)
        return module.eval()


def conditions(seeds: int, shares: Sequence[float] = SHARES) -> list[Condition]:
    """Every model that the experiments need."""
    return [
        Condition(loss=loss, seed=seed, share=share, noise=noise)
        for seed in range(seeds)
        for share, noise in [(0.0, Noise.UNIFORM), *((share, noise) for share in reversed(shares) for noise in Noise)]
        for loss in LossName
    ]


def model(split: Split, condition: Condition, *, size: Size, cache: Path) -> Model:
    """A model from the cache, or trained and put there."""
    path = cache / f"{split.name}-{len(split.train_labels_N)}-{size.name}" / f"{condition.name}.npz"
    if not path.exists():
        labels_N = _labels(split, condition, size=size, cache=cache)
        network = train(
            split.train_NCHW,
            labels_N,
            loss=condition.loss,
            size=size,
            seed=condition.seed,
            classes=split.num_classes,
        )
        write_arrays(path, _arrays(split, network, labels_N, condition))
    return read_model(path, condition)


def read_model(path: Path, condition: Condition) -> Model:
    """A model from its file."""
    with np.load(path, allow_pickle=False) as file:
        clean_N = file["train_labels_clean"]
    return Model(condition=condition, path=path, case=load_case(path), clean_N=clean_N)


def write_arrays(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Write an `.npz` whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    with partial.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy's own overload takes arrays by name
    partial.replace(path)


def _labels(split: Split, condition: Condition, *, size: Size, cache: Path) -> NDArray[np.int64]:
    if not condition.share:
        return split.train_labels_N
    clean = model(split, Condition(loss=LossName.PROXY_NCA, seed=condition.seed), size=size, cache=cache).case
    return flip(
        split.train_labels_N,
        share=condition.share,
        noise=condition.noise,
        nearest_N=nearest_classes(clean.head.embed(clean.train_features_NF), split.train_labels_N),
        seed=condition.seed,
    )


def _arrays(
    split: Split, network: Network, labels_N: NDArray[np.int64], condition: Condition
) -> dict[str, NDArray[Any]]:
    tensors: dict[str, Tensor] = {
        "train_features": features(network.backbone, split.train_NCHW),
        "test_features": features(network.backbone, split.test_MCHW),
        "head_weight": network.head.weight,
        "head_bias": network.head.bias,
        "proxies": network.proxies,
        **{f"backbone/{key}": value for key, value in network.backbone.state_dict().items()},
    }
    return {
        "train_labels": labels_N,
        "train_labels_clean": split.train_labels_N,
        "test_labels": split.test_labels_M,
        "meta": meta(condition, split.name),
        **{name: value.detach().contiguous().numpy() for name, value in tensors.items()},
    }


def meta(condition: Condition, data: str) -> NDArray[Any]:
    """The array `meta` of a case file."""
    values = {"loss": condition.loss, "noise": condition.share, "seed": condition.seed, "data": data}
    if condition.loss is LossName.SOFT_TRIPLE:
        values["K"] = CENTERS
    return np.array(json.dumps(values))
