"""A backbone and a head as one network, so that scopes can name the parameters of both."""

from __future__ import annotations

from torch import Tensor, nn

from eif_engine.models.head import Head


class Network(nn.Module):
    """Images to embeddings (B, D), not normalised; parameters are `backbone.*`, `head.weight` and `head.bias`.

    Args:
        backbone: Images to features (B, F); kept, not copied. `nn.Identity()` where features are at hand.
        head: The last linear layer; its tensors are shared.
    """

    def __init__(self, backbone: nn.Module, head: Head) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(head.weight_DF.shape[1], head.weight_DF.shape[0], device="meta")
        self.head.weight = nn.Parameter(head.weight_DF, requires_grad=False)
        self.head.bias = nn.Parameter(head.bias_D, requires_grad=False)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Embeddings."""
        embeddings_BD: Tensor = self.head(self.backbone(images_BCHW))
        return embeddings_BD
