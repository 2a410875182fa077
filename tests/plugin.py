"""Architectures of a plug-in, installed as other people's are: a package with entry points on the path.

`hungry` is the multilayer perceptron, but out of GPU memory for batches above a size. `slow` waits before each batch,
and notes which process runs it. `poison` breaks on bright images.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from eif_engine.models.small import mlp

_ENTRY_POINTS = """[eif.architectures]
hungry = tests.plugin:hungry
slow = tests.plugin:slow
poison = tests.plugin:poison
"""


def install(folder: Path) -> str:
    """Install the plug-in; the folder that belongs on PYTHONPATH."""
    info = folder / "site" / "eif_test_plugin-1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: eif-test-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(_ENTRY_POINTS)
    return str(info.parent)


class _Before(nn.Sequential):
    """A network with something that happens before each batch; its state dict is the network's."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(*network.children())

    def before(self, images_BCHW: Tensor) -> None:
        raise NotImplementedError

    def forward(self, images_BCHW: Tensor) -> Tensor:
        self.before(images_BCHW)
        features: Tensor = super().forward(images_BCHW)  # type: ignore[no-untyped-call]  # torch's has no types
        return features


class Hungry(_Before):
    most = 64

    def before(self, images_BCHW: Tensor) -> None:
        if len(images_BCHW) > self.most and images_BCHW.any():  # the loader looks at the network with no image
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")


class Slow(_Before):
    seconds = 0.0
    notes = ""

    def before(self, images_BCHW: Tensor) -> None:
        if not images_BCHW.any():  # the loader looks at the network
            return
        if self.notes:
            (Path(self.notes) / str(os.getpid())).touch()
        time.sleep(self.seconds)


class Poison(_Before):
    above = 0.0
    notes = ""

    def before(self, images_BCHW: Tensor) -> None:
        if (images_BCHW.mean(dim=(1, 2, 3)) > self.above).any():
            (Path(self.notes) / f"{time.monotonic_ns()}-{os.getpid()}").touch()
            raise RuntimeError("s3cret")


def hungry(*, most: int, **options: int) -> nn.Module:
    module = Hungry(mlp(**options))
    module.most = most
    return module


def slow(*, seconds: float, notes: str = "", **options: int) -> nn.Module:
    module = Slow(mlp(**options))
    module.seconds, module.notes = seconds, notes
    return module


def poison(*, above: float, notes: str, **options: int) -> nn.Module:
    module = Poison(mlp(**options))
    module.above, module.notes = above, notes
    return module
