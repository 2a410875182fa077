"""How much each group of features has in the similarity of two images.

    G     groups; the features of a group lie side by side
    F, D  features of all groups, embedding size

`z = sum_g W_g x_g + b` whatever the head, so the cosine of two embeddings is a sum over groups.
"""

from __future__ import annotations

import torch
from torch import Tensor


def group_embeddings(x_F: Tensor, weight_DF: Tensor, bias_D: Tensor, groups: int) -> Tensor:
    """What each group adds to the embedding (G, D); they sum to it.

    The bias goes to the groups in equal parts; where the head is made of a block a group, each block keeps its own.

    Args:
        x_F: Features; F is a multiple of G.
        weight_DF: W.
        bias_D: b.
        groups: G.
    """
    dim, features = weight_DF.shape
    parts_GD = torch.einsum("dgf,gf->gd", weight_DF.reshape(dim, groups, -1), x_F.reshape(groups, -1))
    own_GD = _blocks(dim, features, groups, weight_DF)
    return parts_GD + (bias_D / groups if own_GD is None else bias_D * own_GD)


def group_shares(first_GD: Tensor, second_GD: Tensor) -> Tensor:
    """Share of each group in the cosine of two embeddings (G,); they sum to it.

    `(z_g . z' + z . z'_g) / (2 |z| |z'|)`: what pairs of different groups have in common, two groups share equally.
    With a head made of blocks there is nothing in common, and it is `z_g . z'_g / (|z| |z'|)`.
    """
    first_D, second_D = first_GD.sum(dim=0), second_GD.sum(dim=0)
    norms = torch.linalg.vector_norm(first_D) * torch.linalg.vector_norm(second_D)
    return (first_GD @ second_D + second_GD @ first_D).div(2 * norms)


def _blocks(dim: int, features: int, groups: int, weight_DF: Tensor) -> Tensor | None:
    """Which dimensions are those of each group (G, D), where the head has a block a group and zeros elsewhere."""
    if dim % groups:
        return None
    own_GD = torch.eye(groups, dtype=weight_DF.dtype, device=weight_DF.device).repeat_interleave(dim // groups, dim=1)
    inside_DF = own_GD.T.repeat_interleave(features // groups, dim=1)
    return None if groups > 1 and (weight_DF * (1 - inside_DF)).any() else own_GD
