"""Which parts of two images make them similar: structural matching (DIML; Zhao et al., ICCV 2021).

    U, V  parts (cells of the feature map) of the first and of the second image
    D     embedding size

Every part has a vector in the space of embeddings. Mass flows from the parts of one image to those of the other at a
cost of 1 - cosine; how much mass a part has is how well it agrees with the *whole* of the other image. The similarity
of the matching is the mean cosine under the flow, and so a sum over pairs of parts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from eif_engine.functional.sinkhorn import sinkhorn
from eif_engine.matching_config import MatchingConfig


@dataclass(frozen=True)
class Matching:
    """The parts of two images, matched. Any leading dimensions are a batch.

    Attributes:
        flow_UV: Mass between parts; sums to 1.
        similarity_UV: Cosines of the parts.
        error: By how much the marginals of the flow are off, summed over parts.
        converged: Whether that is within the tolerance.
    """

    flow_UV: Tensor
    similarity_UV: Tensor
    error: float
    converged: bool

    @property
    def contribution_UV(self) -> Tensor:
        """What each pair of parts adds to `matched_similarity`."""
        return self.flow_UV * self.similarity_UV

    @property
    def matched_similarity(self) -> Tensor:
        """In [-1, 1], (...)."""
        return self.contribution_UV.sum(dim=(-2, -1))


def match(
    parts_UD: Tensor, parts_VD: Tensor, whole_D: Tensor, other_D: Tensor, config: MatchingConfig | None = None
) -> Matching:
    """Match the parts of two images by optimal transport.

    Args:
        parts_UD: Parts of the first image (..., U, D), not normalised.
        parts_VD: Parts of the second image (..., V, D).
        whole_D: Embedding of the first image (..., D).
        other_D: Embedding of the second image (..., D).
        config: Temperature and tolerance.
    """
    return match_masses(
        parts_UD, parts_VD, correlation(parts_UD, other_D), correlation(parts_VD, whole_D), config or MatchingConfig()
    )


def match_masses(
    parts_UD: Tensor, parts_VD: Tensor, mass_U: Tensor, mass_V: Tensor, config: MatchingConfig
) -> Matching:
    """Match parts that have these masses, each non-negative with sum 1."""
    similarity_UV = F.normalize(parts_UD, dim=-1) @ F.normalize(parts_VD, dim=-1).transpose(-2, -1)
    found = sinkhorn(
        1 - similarity_UV,
        mass_U,
        mass_V,
        temperature=config.temperature,
        tolerance=config.tolerance,
        max_iterations=config.max_iterations,
    )
    return Matching(found.flow_UV, similarity_UV, found.error, found.converged)


def correlation(parts_UD: Tensor, other_D: Tensor) -> Tensor:
    """Mass of the parts of an image by cross-correlation with the embedding of the other image.

    The product of a part with the other embedding, negative ones set to 0, divided by their sum. Where parts average
    to the embedding of their image, these are their shares in the model's own similarity. Equal masses where no product
    is above 0.
    """
    product_U = (parts_UD @ other_D[..., :, None])[..., 0].clamp(min=0)
    total = product_U.sum(dim=-1, keepdim=True)
    equal_U = torch.full_like(product_U, 1 / product_U.shape[-1])
    return torch.where(total > 0, product_U / total.where(total > 0, 1), equal_U)


def additive_contributions(parts_UD: Tensor, parts_VD: Tensor) -> Tensor:
    """What each pair of parts adds to the cosine of the two embeddings, when parts average to the embeddings.

    `z . z' = sum_uv e_u . e'_v / (U V)`, divided by `|z| |z'|`: exact, and signed.
    """
    whole_D, other_D = parts_UD.mean(dim=-2), parts_VD.mean(dim=-2)
    norms = torch.linalg.vector_norm(whole_D, dim=-1) * torch.linalg.vector_norm(other_D, dim=-1)
    pairs = parts_UD.shape[-2] * parts_VD.shape[-2]
    return torch.div(parts_UD @ parts_VD.transpose(-2, -1), (pairs * norms)[..., None, None])
