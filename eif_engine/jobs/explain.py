"""Why a model finds two images alike: their parts, matched, and the shares of its attention groups."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from eif_engine.errors import CheckpointIncompatible
from eif_engine.functional.groups import group_embeddings, group_shares
from eif_engine.functional.matching import additive_contributions, match
from eif_engine.matching_config import MatchingConfig
from eif_engine.models.attention import find_attention
from eif_engine.models.feature_map import find_feature_map
from eif_engine.models.loaded import LoadedModel
from eif_engine.models.parts import ImageParts, image_parts

Array = NDArray[np.float64]
Pixels = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why two images are alike. U and V are the parts of the first and the second, row by row.

    Attributes:
        similarity: The model's own: cosine of the two embeddings.
        matched_similarity: Of the matching: the mean cosine of matched parts; not the model's own.
        rows: Of the grid of parts.
        columns: Of the grid of parts.
        flow_UV: Mass between parts; sums to 1.
        part_similarity_UV: Cosines of the parts.
        added_UV: What each pair of parts adds to `similarity`, where that is exact; None elsewhere.
        group_shares: What each attention group adds to `similarity`; empty without groups.
        attention: Weight of each part for each group, of both images (2, groups, U); no groups where
            the network has none, or where they attend over something else than these parts.
        error: By how much the marginals of the flow are off.
    """

    similarity: float
    matched_similarity: float
    rows: int
    columns: int
    flow_UV: Array
    part_similarity_UV: Array
    added_UV: Array | None
    group_shares: tuple[float, ...]
    attention: Array
    error: float

    @property
    def contribution_UV(self) -> Array:
        """What each pair of parts adds to `matched_similarity`."""
        return self.flow_UV * self.part_similarity_UV


@dataclass(frozen=True)
class Link:
    """Two parts and what they add to the similarity of the matching."""

    part: int
    neighbor_part: int
    flow: float
    similarity: float
    contribution: float


class Explainer:
    """Explains pairs of images by one model.

    Args:
        model: The model.
        config: Of the matching.
        name: Of the architecture, for errors.

    Raises:
        FeatureMapMissing: The network has no map of parts.
    """

    def __init__(self, model: LoadedModel, config: MatchingConfig | None = None, *, name: str = "of the model") -> None:
        self._model, self._config = model, config or MatchingConfig()
        found = find_attention(model.backbone)
        self._attention = None if found is None else found[1]
        self.feature_map = find_feature_map(model.backbone, model.preprocessing.output_shape, name=name)

    def parts(self, pixels_CHW: Pixels) -> ImageParts:
        """The parts of a preprocessed image. Raises CheckpointIncompatible when they are not finite."""
        model = self._model
        image_CHW = torch.from_numpy(pixels_CHW).to(model.head.weight_DF.device)
        found = image_parts(model.backbone, model.head, self.feature_map, image_CHW, self._attention)
        if not (torch.isfinite(found.alone_UD).all() and torch.isfinite(found.embedding_D).all()):
            raise CheckpointIncompatible(
                "the network gives NaN or infinite features for an image of the pair: its weights, or its "
                "preprocessing, are broken"
            )
        return found

    def pair(self, first: ImageParts, second: ImageParts) -> Explanation:
        """Why two images are alike."""
        matching = match(first.alone_UD, second.alone_UD, first.embedding_D, second.embedding_D, self._config)
        added = None
        if first.added_UD is not None and second.added_UD is not None:
            added = additive_contributions(first.added_UD, second.added_UD).numpy()
        cosine = torch.cosine_similarity(first.embedding_D, second.embedding_D, dim=0)
        return Explanation(
            similarity=float(cosine),
            matched_similarity=float(matching.matched_similarity),
            rows=self.feature_map.rows,
            columns=self.feature_map.columns,
            flow_UV=matching.flow_UV.numpy(),
            part_similarity_UV=matching.similarity_UV.numpy(),
            added_UV=added,
            group_shares=self._shares(first, second),
            attention=self._weights(first, second),
            error=matching.error,
        )

    def _shares(self, first: ImageParts, second: ImageParts) -> tuple[float, ...]:
        if self._attention is None:
            return ()
        head = self._model.head.to(device="cpu", dtype=torch.float64)
        groups = self._attention.settings.groups
        one, other = (
            group_embeddings(parts.features_F, head.weight_DF, head.bias_D, groups) for parts in (first, second)
        )
        return tuple(group_shares(one, other).tolist())

    def _weights(self, first: ImageParts, second: ImageParts) -> Array:
        if first.attention_GU is None or second.attention_GU is None:
            return np.zeros((2, 0, self.feature_map.parts))
        return torch.stack([first.attention_GU, second.attention_GU]).numpy()


def explain_pairs(
    model: LoadedModel,
    pairs: Iterable[tuple[Pixels, Pixels]],
    config: MatchingConfig | None = None,
    *,
    name: str = "of the model",
) -> Iterator[Explanation]:
    """Explain pairs of preprocessed images (C, H, W), one after the other.

    Args:
        model: The model.
        pairs: Read one at a time, so that memory does not grow with their number.
        config: Of the matching.
        name: Of the architecture, for errors.

    Raises:
        FeatureMapMissing: The network has no map of parts.
        CheckpointIncompatible: Features that are not finite.
    """
    explainer = Explainer(model, config, name=name)
    for first, second in pairs:
        yield explainer.pair(explainer.parts(first), explainer.parts(second))


def links(explanation: Explanation, *, least_share: float = 0.0) -> list[Link]:
    """Pairs of parts, those that add most first.

    Args:
        explanation: Of a pair.
        least_share: Pairs that add (or take away) less than this part of the sum are left out.
    """
    contribution_UV = explanation.contribution_UV
    order = np.argsort(-contribution_UV, axis=None, kind="stable")
    kept = np.abs(contribution_UV.ravel()[order]) >= least_share * abs(explanation.matched_similarity)
    rows, columns = np.unravel_index(order[kept], contribution_UV.shape)
    return [
        Link(
            int(u),
            int(v),
            float(explanation.flow_UV[u, v]),
            float(explanation.part_similarity_UV[u, v]),
            float(contribution_UV[u, v]),
        )
        for u, v in zip(rows, columns, strict=True)
    ]
