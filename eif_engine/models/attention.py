"""Grouped attention: a pooling whose groups each look at their own parts of the image.

Every group has a learnable query. It attends over the cells of the feature map by the softmax of its products with
their keys, and pools its own values of the cells. The features are the parts of the groups, one after the other, so
that the similarity of two images is a sum over groups; see functional/groups.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from eif_engine.models.bundle import AttentionSettings


class GroupedAttention(nn.Module):
    """Feature maps (B, C, H, W) to features (B, F), F = groups * value_dim.

    Args:
        channels: C.
        settings: Groups and sizes.

    Attributes:
        query: Of each group (groups, key_dim).
        key: Cells to keys (key_dim, C).
        value: Cells to the values of each group (groups, value_dim, C).
    """

    def __init__(self, channels: int, settings: AttentionSettings) -> None:
        super().__init__()
        self.settings = settings
        self.query = nn.Parameter(torch.empty(settings.groups, settings.key_dim))
        self.key = nn.Parameter(torch.empty(settings.key_dim, channels))
        self.value = nn.Parameter(torch.empty(settings.groups, settings.value_dim, channels))
        nn.init.normal_(self.query)
        for weight in (self.key, self.value):
            nn.init.uniform_(weight, -1 / math.sqrt(channels), 1 / math.sqrt(channels))

    def attention(self, map_BCHW: Tensor) -> Tensor:
        """Weight of each cell for each group (B, groups, H * W); sums to 1 over cells."""
        keys = self.key @ map_BCHW.flatten(2)
        return torch.softmax(self.query @ keys / math.sqrt(self.settings.key_dim), dim=2)

    def forward(self, map_BCHW: Tensor) -> Tensor:
        """Features; values are linear in the cells, so these are pooled first."""
        pooled_BGC = self.attention(map_BCHW) @ map_BCHW.flatten(2).transpose(1, 2)
        parts_BGV = (self.value @ pooled_BGC[..., None])[..., 0]
        return parts_BGV.flatten(1)


def find_attention(backbone: nn.Module) -> tuple[str, GroupedAttention] | None:
    """The name and module of a backbone's grouped attention, if it has one."""
    return next(
        ((name, module) for name, module in backbone.named_modules() if isinstance(module, GroupedAttention)), None
    )


def block_head(heads: Sequence[nn.Linear]) -> nn.Linear:
    """The linear layers of the groups as one last linear layer, block by block.

    For models trained with a layer a group, as in DGML: the embedding is the concatenation of the groups' own.

    Args:
        heads: One a group, in order; all with a bias or none.
    """
    weight: Tensor = torch.block_diag(*(head.weight.detach() for head in heads))  # type: ignore[no-untyped-call]  # torch leaves it untyped
    head = nn.Linear(weight.shape[1], weight.shape[0], bias=heads[0].bias is not None)
    with torch.no_grad():
        head.weight.copy_(weight)
        if heads[0].bias is not None:
            head.bias.copy_(torch.cat([each.bias for each in heads]))
    return head
