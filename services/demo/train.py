"""Train a small embedding model with ProxyNCA++ on labels of which some are wrong."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eif_engine.config import QueryKind
from eif_engine.data.images import decode_image
from eif_engine.data.preprocessing import ImageMode, Preprocessing
from eif_engine.jobs.queries import find_queries
from eif_engine.losses.proxy_nca import proxy_nca_logits
from eif_engine.models.bundle import Architecture, ProxyNcaSettings
from eif_engine.models.save import state_dict_of
from eif_engine.models.small import conv4
from eif_engine.types import Progress
from services.demo.data import DemoData, DemoImage

EMBEDDING_DIM = 64
SCALE = 3.0
BATCH = 64
WIDTH = 32


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


def train(data: DemoData, *, epochs: int, seed: int, progress: Progress) -> Trained:
    """Train on the labels as given; the same seed gives the same model on the same machine."""
    torch.manual_seed(seed)
    size = data.image_size
    options = {"in_channels": 1, "width": WIDTH, "image_size": size}
    backbone = conv4(**options)
    preprocessing = Preprocessing(
        mode=ImageMode.GRAY, resize=(size, size), invert=data.dark_strokes, mean=(0.2,), std=(0.35,)
    )
    images_NCHW = _load(data.train, preprocessing)
    classes = sorted({image.label for image in data.train})
    labels_N = torch.tensor([classes.index(image.label) for image in data.train])
    with torch.no_grad():
        features = backbone.eval()(images_NCHW[:1]).shape[1]
    head = nn.Linear(features, EMBEDDING_DIM)
    proxies_CD = nn.Parameter(torch.randn(len(classes), EMBEDDING_DIM))
    optimizer = torch.optim.AdamW(
        [
            {"params": [*backbone.parameters(), *head.parameters()], "lr": 1e-3, "weight_decay": 1e-4},
            {"params": [proxies_CD], "lr": 3e-2, "weight_decay": 0.0},
        ]
    )
    steps, done = epochs * len(range(0, len(labels_N), BATCH)), 0
    backbone.train()
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(labels_N)), BATCH):
            logits = proxy_nca_logits(head(backbone(_jitter(images_NCHW[rows]))), proxies_CD, SCALE)
            optimizer.zero_grad()
            torch.autograd.backward([F.cross_entropy(logits, labels_N[rows])])
            optimizer.step()
            done += 1
            progress(done, steps)
    return Trained(
        architecture=Architecture(name="conv4", options=dict(options)),
        loss=ProxyNcaSettings(scale=SCALE),
        classes=classes,
        preprocessing=preprocessing,
        state_dict=state_dict_of(backbone=backbone, head=head, proxies=proxies_CD.detach()),
        recall_at_1=_recall_at_1(backbone.eval(), head, data.test, preprocessing),
    )


def _load(images: list[DemoImage], preprocessing: Preprocessing) -> Tensor:
    return torch.stack([torch.from_numpy(preprocessing.apply(decode_image(image.png))) for image in images])


def _jitter(images_BCHW: Tensor) -> Tensor:
    """Shift a batch by up to a sixteenth of its side."""
    reach = images_BCHW.shape[-1] // 16
    down, right = torch.randint(-reach, reach + 1, (2,)).tolist()
    return torch.roll(images_BCHW, (down, right), dims=(2, 3))


@torch.no_grad()
def _recall_at_1(backbone: nn.Module, head: nn.Linear, images: list[DemoImage], preprocessing: Preprocessing) -> float:
    batches = torch.split(_load(images, preprocessing), 256)
    embeddings_MD = torch.cat([head(backbone(batch)) for batch in batches])
    labels = [image.true_label for image in images]
    ids = [image.sample_id for image in images]
    confused = find_queries(embeddings_MD=embeddings_MD, labels=labels, sample_ids=ids, kind=QueryKind.CONFUSION_PAIRS)
    return 1 - len(confused) / len(images)
