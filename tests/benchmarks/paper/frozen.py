"""Models of frozen MobileNetV2 features under a linear head, on any folder with one folder of images a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eif_engine.cases import load_case
from eif_engine.counterfactual_config import RetrainConfig
from eif_engine.data.images import decode_image
from eif_engine.data.preprocessing import Preprocessing
from eif_engine.errors import InvalidInput
from eif_engine.functional.retrain import leaves, retrain_head
from eif_engine.models.architectures import build_backbone
from eif_engine.models.bundle import Architecture
from eif_engine.models.head import Head
from eif_engine.models.safe_load import read_checkpoint
from eif_engine.models.state_dict import tensors_of
from tests.benchmarks.paper.data import codes
from tests.benchmarks.paper.flips import flip, nearest_classes
from tests.benchmarks.paper.models import Condition, Model, meta, read_model, write_arrays
from tests.benchmarks.paper.network import CENTERS, LossName, make_loss

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp"})
PREPROCESSING = Preprocessing(resize=256, center_crop=224, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
EMBEDDING_DIM = 64
TRAINING = RetrainConfig(epochs=40, learning_rate=3e-3)
BATCH = 32


@dataclass(frozen=True, kw_only=True)
class FrozenSplit:
    """Features of a class-disjoint split with the true labels."""

    name: str
    train_NF: Tensor
    train_labels_N: NDArray[np.int64]
    test_MF: Tensor
    test_labels_M: NDArray[np.int64]


def frozen_split(folder: Path, weights: Path, *, cache: Path) -> FrozenSplit:
    """Classes in order of their names, the first half to train on; features are kept for the next run.

    Raises:
        InvalidInput: There are fewer than four classes with at least two images.
    """
    classes = [(part.name, _images(part)) for part in sorted(folder.iterdir()) if part.is_dir()]
    classes = [(name, paths) for name, paths in classes if len(paths) >= 2]
    if len(classes) < 4:
        raise InvalidInput(
            f"{folder}: needs a folder a class, at least four with two images or more; {len(classes)} found",
            uri=str(folder),
        )
    half = (len(classes) + 1) // 2
    sides = [[(path, name) for name, paths in side for path in paths] for side in (classes[:half], classes[half:])]
    file = cache / f"{folder.name}-{len(sides[0])}-{len(sides[1])}-frozen" / "features.npz"
    if not file.exists():
        backbone = _backbone(weights)
        found = [_features(backbone, [path for path, _ in side]).numpy() for side in sides]
        write_arrays(file, {"train": found[0], "test": found[1]})
    with np.load(file, allow_pickle=False) as arrays:
        train_NF, test_MF = (torch.from_numpy(arrays[name]) for name in ("train", "test"))
    return FrozenSplit(
        name=file.parent.name,
        train_NF=train_NF,
        train_labels_N=codes([name for _, name in sides[0]]),
        test_MF=test_MF,
        test_labels_M=codes([name for _, name in sides[1]]),
    )


def frozen_model(split: FrozenSplit, condition: Condition, *, cache: Path) -> Model:
    """A head and proxies from the cache, or trained from scratch and put there."""
    path = cache / split.name / f"{condition.name}.npz"
    if not path.exists():
        labels_N = _labels(split, condition, cache)
        head, proxies = _train(split, labels_N, condition)
        write_arrays(
            path,
            {
                "train_features": split.train_NF.numpy(),
                "test_features": split.test_MF.numpy(),
                "head_weight": head.weight_DF.numpy(),
                "head_bias": head.bias_D.numpy(),
                "proxies": proxies.numpy(),
                "train_labels": labels_N,
                "train_labels_clean": split.train_labels_N,
                "test_labels": split.test_labels_M,
                "meta": meta(condition, split.name),
            },
        )
    return read_model(path, condition)


def _train(split: FrozenSplit, labels_N: NDArray[np.int64], condition: Condition) -> tuple[Head, Tensor]:
    torch.manual_seed(condition.seed)
    start = nn.Linear(split.train_NF.shape[1], EMBEDDING_DIM)
    classes = int(split.train_labels_N.max()) + 1
    middle = () if condition.loss is LossName.PROXY_NCA else (CENTERS,)
    head, loss = retrain_head(
        Head(start.weight.detach(), start.bias.detach()),
        make_loss(condition.loss, torch.randn(classes, *middle, EMBEDDING_DIM)),
        x_NF=split.train_NF,
        labels_N=torch.from_numpy(labels_N),
        weights_N=torch.ones(len(labels_N)),
        config=RetrainConfig(epochs=TRAINING.epochs, learning_rate=TRAINING.learning_rate, seed=condition.seed),
    )
    (proxies,) = leaves(loss).values()
    return head, proxies.detach()


def _labels(split: FrozenSplit, condition: Condition, cache: Path) -> NDArray[np.int64]:
    if not condition.share:
        return split.train_labels_N
    clean = frozen_model(split, Condition(loss=LossName.PROXY_NCA, seed=condition.seed), cache=cache)
    case = load_case(clean.path)
    return flip(
        split.train_labels_N,
        share=condition.share,
        noise=condition.noise,
        nearest_N=nearest_classes(case.head.embed(case.train_features_NF), split.train_labels_N),
        seed=condition.seed,
    )


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def _backbone(weights: Path) -> nn.Module:
    module = build_backbone(Architecture(name="mobilenet_v2")).module
    state = tensors_of(read_checkpoint(weights), name=weights.name)
    module.load_state_dict({key: state[key].to(value.dtype) for key, value in module.state_dict().items()})
    return module.eval()


@torch.no_grad()
def _features(backbone: nn.Module, paths: Sequence[Path]) -> Tensor:
    found = []
    for first in range(0, len(paths), BATCH):
        images = [decode_image(path.read_bytes()) for path in paths[first : first + BATCH]]
        found.append(backbone(torch.stack([torch.from_numpy(PREPROCESSING.apply(image)) for image in images])))
    return torch.cat(found)
