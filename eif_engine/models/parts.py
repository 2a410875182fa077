"""Parts of an image as vectors in the space of embeddings.

    U     parts: cells of the last feature map, row by row
    C     channels of the map        F, D  features and embedding size

Two readings, which agree where the map is averaged and the head is linear:

- *a part by itself* is the embedding of an image that is this part everywhere: its cell in all places of the map, then
  the tail of the network and the head. It holds for any tail, and says what is in the part, not where it is;
- *what a part adds* to the embedding of its image, where that is a mean over parts: exact for maps that are averaged,
  laid out flat, pooled by maximum (a channel belongs to the cell that won it) or by grouped attention, each also with
  a layer norm after it, whose scale is the image's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from eif_engine.data.features import exact_arithmetic
from eif_engine.models.attention import GroupedAttention
from eif_engine.models.feature_map import FeatureMap, features_of_maps, read_map
from eif_engine.models.head import Head

_LAYER_NORM_EPS = 1e-5
_RTOL = 1e-4


@dataclass(frozen=True)
class ImageParts:
    """The parts of an image, in float64 on the CPU.

    Attributes:
        alone_UD: Each by itself; where the map is laid out flat, what it adds: there the head has other weights for
            every place, and a part without its place has no embedding.
        added_UD: What each adds: their mean is the embedding. None where no such reading is exact.
        features_F: Of the image.
        embedding_D: Of the image.
        attention_GU: Weight of each part for each group, where the network has grouped attention over these parts.
    """

    alone_UD: Tensor
    added_UD: Tensor | None
    features_F: Tensor
    embedding_D: Tensor
    attention_GU: Tensor | None


def image_parts(
    backbone: nn.Module, head: Head, place: FeatureMap, image_CHW: Tensor, attention: GroupedAttention | None
) -> ImageParts:
    """The parts of an image.

    Args:
        backbone: The network.
        head: Its last linear layer, on any device.
        place: Of its map.
        image_CHW: Preprocessed, on the network's device.
        attention: That of the network, if it has one.
    """
    with _seen_by(attention) as seen:
        map_BCHW, features_BF = read_map(backbone, place, image_CHW[None])
    cells_UC = map_BCHW[0].flatten(1).T
    exact = head.to(device="cpu", dtype=torch.float64)
    features_F = features_BF[0].double().cpu()
    reading = _Reading(cells_UC.double().cpu(), features_F, exact)
    weights_GU = None
    if attention is None:
        added_UD = reading.added()
    else:
        weights_GU = _attention(attention, seen[0])
        added_UD = reading.attended(attention, weights_GU, seen[0][0].flatten(1).T.double().cpu())
        weights_GU = _on_grid(weights_GU, place.parts)
    embedding_D = exact.embed(features_F[None])[0]
    if added_UD is not None:
        added_UD = added_UD + (embedding_D - added_UD.mean(0))  # what rounding leaves, in equal parts
    if added_UD is not None and reading.flat:
        return ImageParts(added_UD, added_UD, features_F, embedding_D, weights_GU)
    alone_UD = exact.embed(_alone(backbone, place, image_CHW, cells_UC).double().cpu())
    return ImageParts(alone_UD, added_UD, features_F, embedding_D, weights_GU)


def _alone(backbone: nn.Module, place: FeatureMap, image_CHW: Tensor, cells_UC: Tensor) -> Tensor:
    """Features (U, F) of images that are one cell everywhere."""
    maps_UCHW = cells_UC[:, :, None, None].expand(-1, -1, place.rows, place.columns)
    return features_of_maps(backbone, place, image_CHW, maps_UCHW)


@contextmanager
def _seen_by(attention: GroupedAttention | None) -> Iterator[list[Tensor]]:
    """The maps that attention is given meanwhile."""
    seen: list[Tensor] = []
    if attention is None:
        yield seen
        return
    handle = attention.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].clone()))
    try:
        yield seen
    finally:
        handle.remove()


def _on_grid(weights_GU: Tensor, parts: int) -> Tensor | None:
    """Weights of the parts: attention over one cell looks at all alike; those of another grid are not theirs."""
    if weights_GU.shape[1] == parts:
        return weights_GU
    return weights_GU.expand(-1, parts) / parts if weights_GU.shape[1] == 1 else None


def _attention(attention: GroupedAttention, map_BCHW: Tensor) -> Tensor:
    with torch.inference_mode(), exact_arithmetic(map_BCHW.device):
        return attention.attention(map_BCHW)[0].double().cpu()


@dataclass(frozen=True)
class _Sum:
    """Features before a norm as a mean over parts: `pooled_F = mean_u q_u`; `head_UD = q W^T`, `mean_U` of each q."""

    head_UD: Tensor
    mean_U: Tensor
    pooled_F: Tensor


class _Reading:
    """Tries the ways in which features can be a mean over the parts, and keeps the one that gives the features."""

    def __init__(self, cells_UC: Tensor, features_F: Tensor, head: Head) -> None:
        self._cells_UC, self._features_F, self._head = cells_UC, features_F, head
        self.flat = False

    def attended(self, attention: GroupedAttention, weights_GU: Tensor, seen_UC: Tensor) -> Tensor | None:
        """What each part adds (U, D) when attention pools the cells it has seen, or None."""
        if len(seen_UC) != len(self._cells_UC):
            return None
        return self._of(_attended(seen_UC, attention, weights_GU, self._head))

    def added(self) -> Tensor | None:
        """What each part adds to the embedding (U, D) when any other pooling follows, or None."""
        for cells_UC in (self._cells_UC, self._cells_UC.relu()):  # some networks rectify the map before they pool it
            for found in self._sums(cells_UC):
                added_UD = self._of(found)
                if added_UD is not None:
                    return added_UD
            self.flat = False
        return None

    def _sums(self, cells_UC: Tensor) -> Iterator[_Sum]:
        (parts, channels), features = cells_UC.shape, len(self._features_F)
        if features == channels:
            for q_UF in (cells_UC, _won(cells_UC)):
                yield _Sum(q_UF @ self._head.weight_DF.T, q_UF.mean(1), q_UF.mean(0))
        if features == channels * parts:
            self.flat = True
            weight_DCU = self._head.weight_DF.reshape(-1, channels, parts)
            head_UD = parts * torch.einsum("uc,dcu->ud", cells_UC, weight_DCU)
            yield _Sum(head_UD, cells_UC.sum(1) / channels, cells_UC.T.flatten())

    def _of(self, found: _Sum) -> Tensor | None:
        pooled_F = found.pooled_F
        if self._is_features(pooled_F):
            return found.head_UD + self._head.bias_D
        center, scale = pooled_F.mean(), (pooled_F.var(correction=0) + _LAYER_NORM_EPS).sqrt()
        if self._is_features((pooled_F - center) / scale):
            rows_D = self._head.weight_DF.sum(1)
            return (found.head_UD - found.mean_U[:, None] * rows_D) / scale + self._head.bias_D
        return None

    def _is_features(self, candidate_F: Tensor) -> bool:
        atol = _RTOL * float(self._features_F.abs().max())
        return torch.allclose(candidate_F, self._features_F, rtol=_RTOL, atol=atol)


def _won(cells_UC: Tensor) -> Tensor:
    """Pooling by maximum as a mean: each channel at the cells that have its maximum, times U, ties in equal parts."""
    best_UC = (cells_UC == cells_UC.amax(0)).to(cells_UC.dtype)
    return len(cells_UC) * cells_UC * best_UC / best_UC.sum(0)


def _attended(cells_UC: Tensor, attention: GroupedAttention, weights_GU: Tensor, head: Head) -> _Sum:
    value_GVC = attention.value.detach().double().cpu()
    values_UGV = torch.einsum("gvc,uc->ugv", value_GVC, cells_UC)
    q_UF = (len(cells_UC) * weights_GU.T[..., None] * values_UGV).flatten(1)
    return _Sum(q_UF @ head.weight_DF.T, q_UF.mean(1), q_UF.mean(0))
