"""The last feature map of a backbone, found in the network as it runs: no architecture has to say where it is.

It is the last output of a module that has more than one cell and through which everything passes: with it alone in
place of another image's, the features are those of its own image. What comes after it is the *tail* of the network:
pooling, and whatever else makes features of the map.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from eif_engine.data.features import exact_arithmetic
from eif_engine.errors import FeatureMapMissing

MAX_PARTS = 1024
"""Cells of a map; pairs of them are compared."""

CHUNK_BYTES = 64 * 2**20
"""Of maps that go through the tail at once."""

_CANDIDATES = 32
_Hook = Callable[[str, int, Tensor], Tensor | None]


@dataclass(frozen=True)
class FeatureMap:
    """Where the map is.

    Attributes:
        layer: Name of the module that gives it.
        call: Which of its calls in one pass, from 0.
        channels: C.
        rows: H.
        columns: W.
    """

    layer: str
    call: int
    channels: int
    rows: int
    columns: int

    @property
    def parts(self) -> int:
        """H * W."""
        return self.rows * self.columns


def find_feature_map(
    backbone: nn.Module, image_shape: tuple[int, int, int], *, name: str = "the network"
) -> FeatureMap:
    """Find the last feature map.

    Args:
        backbone: In eval mode.
        image_shape: (C, H, W) of its input.
        name: Of the architecture, for the error.

    Raises:
        FeatureMapMissing: There is none, or it has more than MAX_PARTS cells.
    """
    device = next((value.device for value in backbone.parameters()), torch.device("cpu"))
    images_BCHW = torch.randn(2, *image_shape, generator=torch.Generator().manual_seed(0)).to(device)
    for place in _candidates(backbone, images_BCHW[:1], name):
        if _everything_passes(backbone, place, images_BCHW):
            return _of_bounded_size(place, name)
    raise _missing(name, "no feature map through which all of an image passes")


def read_map(backbone: nn.Module, place: FeatureMap, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """The map (B, C, H, W) and the features (B, F) of images."""
    found: list[Tensor] = []

    def take(name: str, call: int, output: Tensor) -> None:
        if (name, call) == (place.layer, place.call):
            found.append(output.clone())  # what follows may write into it

    with _watched(backbone, take, layer=place.layer):
        features_BF = _run(backbone, images_BCHW)
    return found[0], features_BF


def features_of_maps(backbone: nn.Module, place: FeatureMap, image_CHW: Tensor, maps_MCHW: Tensor) -> Tensor:
    """Features (M, F) that the tail makes of maps.

    Args:
        backbone: The network.
        place: Of the map.
        image_CHW: Any image of the right shape: nothing of it reaches the tail.
        maps_MCHW: The maps.
    """
    size = max(1, CHUNK_BYTES // (maps_MCHW[0].numel() * maps_MCHW.element_size()))
    return torch.cat([_tail(backbone, place, image_CHW, chunk) for chunk in torch.split(maps_MCHW, size)])


def _tail(backbone: nn.Module, place: FeatureMap, image_CHW: Tensor, maps_MCHW: Tensor) -> Tensor:
    def put(name: str, call: int, _output: Tensor) -> Tensor | None:
        return maps_MCHW.clone() if (name, call) == (place.layer, place.call) else None

    with _watched(backbone, put, layer=place.layer):
        return _run(backbone, image_CHW[None])


def _run(backbone: nn.Module, images_BCHW: Tensor) -> Tensor:
    with torch.inference_mode(), exact_arithmetic(images_BCHW.device):
        features_BF: Tensor = backbone(images_BCHW)
    return features_BF


@contextmanager
def _watched(backbone: nn.Module, look: _Hook, *, layer: str | None = None) -> Iterator[None]:
    """Have `look` see the output of modules at each call, and replace it where it returns another."""
    calls: Counter[str] = Counter()

    def hook_of(name: str) -> Callable[[nn.Module, object, object], Tensor | None]:
        def hook(_module: nn.Module, _inputs: object, output: object) -> Tensor | None:
            calls[name] += 1
            return look(name, calls[name] - 1, output) if isinstance(output, Tensor) else None

        return hook

    with ExitStack() as stack:
        for name, module in backbone.named_modules():
            if layer is None or name == layer:
                handle = module.register_forward_hook(hook_of(name))
                stack.callback(handle.remove)
        yield


def _candidates(backbone: nn.Module, image_BCHW: Tensor, name: str) -> list[FeatureMap]:
    """Maps of more than one cell, the last first, each once."""
    found: list[FeatureMap] = []
    tokens = False

    def note(layer: str, call: int, output: Tensor) -> None:
        nonlocal tokens
        if output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
            found.append(FeatureMap(layer, call, *output.shape[1:]))
            tokens = False
        elif output.ndim == 3:
            tokens = True

    with _watched(backbone, note):
        _run(backbone, image_BCHW)
    if tokens:
        raise _missing(name, "no feature map at its end: it goes on with a sequence of tokens")
    if not found:
        raise _missing(name, "no feature map")
    return found[: -_CANDIDATES - 1 : -1]


def _everything_passes(backbone: nn.Module, place: FeatureMap, images_BCHW: Tensor) -> bool:
    map_BCHW, features_BF = read_map(backbone, place, images_BCHW[:1])
    again_BF = _tail(backbone, place, images_BCHW[1], map_BCHW)
    scale = float(features_BF.abs().max())
    return again_BF.shape == features_BF.shape and torch.allclose(again_BF, features_BF, rtol=1e-4, atol=1e-5 * scale)


def _of_bounded_size(place: FeatureMap, name: str) -> FeatureMap:
    if place.parts > MAX_PARTS:
        raise _missing(name, f"a feature map of {place.rows} x {place.columns} parts, over {MAX_PARTS:,} in all")
    return place


def _missing(name: str, what: str) -> FeatureMapMissing:
    return FeatureMapMissing(
        f"architecture {name} has {what}: parts of images can be compared only where the network ends in a map of at "
        f"most {MAX_PARTS:,} of them",
        architecture=name,
    )
