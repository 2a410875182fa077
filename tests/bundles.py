"""Model bundles as people have them: ours, and the layouts that other code leaves behind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eif_engine.data.preprocessing import Preprocessing
from eif_engine.losses.settings import LossSettings, ProxyNcaSettings, SoftTripleSettings
from eif_engine.models.architectures import build_backbone
from eif_engine.models.bundle import Architecture
from eif_engine.models.digests import file_sha256
from eif_engine.models.save import save_bundle, state_dict_of

CLASSES = ("a", "b", "c", "d", "e")
DIM = 8
SMALL = Preprocessing.model_validate({"mode": "L", "resize": [16, 16], "mean": [0.5], "std": [0.5]})
CONV4 = Architecture(name="conv4", options={"image_size": 16, "width": 4})


def small_state(*, centers: int = 0, seed: int = 0) -> dict[str, Tensor]:
    """A conv4 of 8 features, a head of DIM, and proxies (or centres) for CLASSES."""
    torch.manual_seed(seed)
    backbone = build_backbone(CONV4).module
    for parameter in backbone.parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter)
        else:
            nn.init.uniform_(parameter, 0.5, 1.5)
    shape = (len(CLASSES), centers, DIM) if centers else (len(CLASSES), DIM)
    return state_dict_of(backbone=backbone, head=nn.Linear(8, DIM), proxies=torch.randn(shape))


def small_bundle(folder: Path, *, centers: int = 0, seed: int = 0) -> Path:
    """A folder with a bundle that can be used."""
    loss: LossSettings = SoftTripleSettings(centers_per_class=centers) if centers else ProxyNcaSettings()
    save_bundle(
        folder,
        architecture=CONV4,
        loss=loss,
        classes=CLASSES,
        preprocessing=SMALL,
        state_dict=small_state(centers=centers, seed=seed),
    )
    return folder


def edit(folder: Path, **changes: Any) -> Path:
    """Change fields of model.json; a value of `...` takes the field out."""
    path = folder / "model.json"
    fields = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in fields.items() if value is not ...}))
    return folder


def put_weights(
    folder: Path, content: object, *, name: str = "weights.pt", field: str = "weights", **extra: str
) -> Path:
    """`torch.save` something and make it the bundle's weights (or proxies)."""
    torch.save(content, folder / name)
    return point_at(folder, name, field=field, **extra)


def put_bytes(folder: Path, data: bytes, *, name: str = "weights.pt") -> Path:
    """Make these bytes the bundle's weights."""
    (folder / name).write_bytes(data)
    return point_at(folder, name)


def point_at(folder: Path, name: str, *, field: str = "weights", **extra: str) -> Path:
    """Name a file in model.json, with its digest."""
    return edit(folder, **{field: {"file": name, "sha256": file_sha256(folder / name), **extra}})


def changed(state: Mapping[str, Tensor], **changes: Tensor | None) -> dict[str, Tensor]:
    """A state dict with keys (`__` for a dot) replaced, or taken out by None."""
    merged = {**state, **{key.replace("__", "."): value for key, value in changes.items()}}
    return {key: value for key, value in merged.items() if value is not None}
