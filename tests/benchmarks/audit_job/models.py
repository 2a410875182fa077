"""Models on Omniglot that the audits look at: a small network trained from scratch, or a head on frozen MobileNetV2."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from eif_engine.counterfactual_config import RetrainConfig
from eif_engine.data.features import BATCH_SIZE
from eif_engine.data.images import decode_image
from eif_engine.data.preprocessing import Preprocessing
from eif_engine.functional.retrain import leaves, retrain_head
from eif_engine.losses.proxy_nca import ProxyNCA
from eif_engine.losses.settings import ProxyNcaSettings
from eif_engine.models.architectures import build_backbone
from eif_engine.models.bundle import Architecture
from eif_engine.models.head import Head
from eif_engine.models.safe_load import read_checkpoint
from eif_engine.models.save import save_bundle, state_dict_of
from eif_engine.models.state_dict import tensors_of
from services.demo.data import DemoData, DemoImage
from services.demo.train import train

EPOCHS = 10
DIM = 64
HEAD_TRAINING = RetrainConfig(epochs=40, learning_rate=3e-3)
MOBILENET = Preprocessing(resize=256, center_crop=224, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@dataclass(frozen=True, kw_only=True)
class Written:
    """A bundle in a folder.

    Attributes:
        bare_seconds: What the bare forward passes of its backbone take on all images, from preloaded tensors.
    """

    folder: Path
    bare_seconds: float


def small_network(data: DemoData, folder: Path, *, seed: int) -> Written:
    """Train conv4 on the labels as given, and write its bundle."""
    trained = train(data, epochs=EPOCHS, seed=seed, progress=lambda _done, _total: None)
    save_bundle(
        folder / "model",
        architecture=trained.architecture,
        loss=trained.loss,
        classes=trained.classes,
        preprocessing=trained.preprocessing,
        state_dict=trained.state_dict,
    )
    (folder / "onnx").mkdir()
    backbone = build_backbone(trained.architecture).module
    _, seconds = features(backbone, trained.preprocessing, [*data.train, *data.test])
    return Written(folder=folder, bare_seconds=seconds)


def frozen_backbone(data: DemoData, folder: Path, weights: Path, *, seed: int) -> Written:
    """Train a head and proxies on features of MobileNetV2, and write the bundle."""
    architecture = Architecture(name="mobilenet_v2")
    backbone = build_backbone(architecture).module
    state = tensors_of(read_checkpoint(weights), name=weights.name)
    backbone.load_state_dict({key: state[key].to(value.dtype) for key, value in backbone.state_dict().items()})
    x_NF, seconds = features(backbone, MOBILENET, [*data.train, *data.test])
    classes = sorted({image.label for image in data.train})
    labels_N = torch.tensor([classes.index(image.label) for image in data.train])
    torch.manual_seed(seed)
    start = nn.Linear(x_NF.shape[1], DIM)
    head, loss = retrain_head(
        Head(start.weight.detach(), start.bias.detach()),
        ProxyNCA(torch.randn(len(classes), DIM)),
        x_NF=x_NF[: len(data.train)],
        labels_N=labels_N,
        weights_N=torch.ones(len(labels_N)),
        config=HEAD_TRAINING,
    )
    (proxies,) = leaves(loss).values()
    linear = nn.Linear(x_NF.shape[1], DIM)
    linear.load_state_dict({"weight": head.weight_DF.detach(), "bias": head.bias_D.detach()})
    save_bundle(
        folder / "model",
        architecture=architecture,
        loss=ProxyNcaSettings(),
        classes=classes,
        preprocessing=MOBILENET,
        state_dict=state_dict_of(backbone=backbone, head=linear, proxies=proxies.detach()),
    )
    (folder / "onnx").mkdir()
    return Written(folder=folder, bare_seconds=seconds)


@torch.inference_mode()
def features(backbone: nn.Module, preprocessing: Preprocessing, images: Sequence[DemoImage]) -> tuple[Tensor, float]:
    """Features, and the seconds of the forward passes alone: images are decoded outside of the clock."""
    backbone.eval()
    found, seconds = [], 0.0
    for first in range(0, len(images), BATCH_SIZE):
        some = images[first : first + BATCH_SIZE]
        pixels_BCHW = torch.stack([torch.from_numpy(preprocessing.apply(decode_image(each.png))) for each in some])
        start = time.perf_counter()
        found.append(backbone(pixels_BCHW))
        seconds += time.perf_counter() - start
    return torch.cat(found).clone(), seconds
