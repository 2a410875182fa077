"""Train a small embedding model with ProxyNCA++ on labels of which some are wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eif_engine.config import QueryKind
from eif_engine.data.images import decode_image
from eif_engine.data.preprocessing import ImageMode, Preprocessing
from eif_engine.jobs.queries import find_queries
from eif_engine.losses.proxy_nca import proxy_nca_logits
from eif_engine.losses.settings import ProxyNcaSettings
from eif_engine.models.bundle import Architecture
from eif_engine.models.save import state_dict_of
from eif_engine.models.small import conv4
from eif_engine.types import Progress
from services.demo.data import DemoData, DemoImage

EMBEDDING_DIM = 64
SCALE = 3.0
BATCH = 64
WIDTH = 32
LEARNING_RATE = 3e-3
PROXY_LEARNING_RATE = 9e-2


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained model, as a bundle wants it.

    Attributes:
        recall_at_1: Share of test images whose nearest other test image shows the same class.
    """

    architecture: Architecture
    loss: ProxyNcaSettings
    classes: list[str]
    preprocessing: Preprocessing
    state_dict: dict[str, Tensor]
    recall_at_1: float


class Model(nn.Module):
    """Backbone, head and one proxy a class."""

    def __init__(self, backbone: nn.Module, *, features: int, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(features, EMBEDDING_DIM)
        self.proxies_CD = nn.Parameter(torch.randn(classes, EMBEDDING_DIM))

    def embed(self, images_BCHW: Tensor) -> Tensor:
        """Embeddings (B, D), not normalised."""
        z_BD: Tensor = self.head(self.backbone(images_BCHW))
        return z_BD

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits (B, C) of ProxyNCA++."""
        return proxy_nca_logits(self.embed(images_BCHW), self.proxies_CD, SCALE)


def train(data: DemoData, *, epochs: int, seed: int, progress: Progress) -> Trained:
    """Train on the labels as given; the same seed gives the same model on the same kind of processor."""
    torch.manual_seed(seed)
    size = data.image_size
    options = {"in_channels": 1, "width": WIDTH, "image_size": size}
    preprocessing = Preprocessing(
        mode=ImageMode.GRAY, resize=(size, size), invert=data.dark_strokes, mean=(0.2,), std=(0.35,)
    )
    images_NCHW = _load(data.train, preprocessing)
    classes = sorted({image.label for image in data.train})
    labels_N = torch.tensor([classes.index(image.label) for image in data.train])
    backbone = conv4(**options)
    model = Model(backbone, features=_features(backbone, images_NCHW), classes=len(classes))
    with _one_thread():
        _fit(model, images_NCHW, labels_N, epochs=epochs, progress=progress)
    return Trained(
        architecture=Architecture(name="conv4", options=dict(options)),
        loss=ProxyNcaSettings(scale=SCALE),
        classes=classes,
        preprocessing=preprocessing,
        state_dict=state_dict_of(backbone=model.backbone, head=model.head, proxies=model.proxies_CD.detach()),
        recall_at_1=_recall_at_1(model, data.test, preprocessing),
    )


def _fit(model: Model, images_NCHW: Tensor, labels_N: Tensor, *, epochs: int, progress: Progress) -> None:
    steps, done = epochs * len(range(0, len(labels_N), BATCH)), 0
    network = [*model.backbone.parameters(), *model.head.parameters()]
    optimizer = torch.optim.AdamW(
        [{"params": network, "weight_decay": 1e-4}, {"params": [model.proxies_CD], "weight_decay": 0.0}]
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [LEARNING_RATE, PROXY_LEARNING_RATE], total_steps=steps, pct_start=0.2
    )
    model.train()
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(labels_N)), BATCH):
            loss = F.cross_entropy(model(_jitter(images_NCHW[rows])), labels_N[rows])
            optimizer.zero_grad()
            torch.autograd.backward([loss])
            optimizer.step()
            schedule.step()
            done += 1
            progress(done, steps)


@contextmanager
def _one_thread() -> Iterator[None]:
    """The same model on any number of cores; batches this small gain little from more threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _load(images: list[DemoImage], preprocessing: Preprocessing) -> Tensor:
    return torch.stack([torch.from_numpy(preprocessing.apply(decode_image(image.png))) for image in images])


@torch.no_grad()
def _features(backbone: nn.Module, images_NCHW: Tensor) -> int:
    return int(backbone.eval()(images_NCHW[:1]).shape[1])


def _jitter(images_BCHW: Tensor) -> Tensor:
    """Shift a batch by up to a sixteenth of its side."""
    reach = images_BCHW.shape[-1] // 16
    down, right = torch.randint(-reach, reach + 1, (2,)).tolist()
    return torch.roll(images_BCHW, (down, right), dims=(2, 3))


@torch.no_grad()
def _recall_at_1(model: Model, images: list[DemoImage], preprocessing: Preprocessing) -> float:
    model.eval()
    embeddings_MD = torch.cat([model.embed(batch) for batch in torch.split(_load(images, preprocessing), 256)])
    labels = [image.true_label for image in images]
    ids = [image.sample_id for image in images]
    confused = find_queries(embeddings_MD=embeddings_MD, labels=labels, sample_ids=ids, kind=QueryKind.CONFUSION_PAIRS)
    return 1 - len(confused) / len(images)
