"""Cutting a torchvision classifier down to its penultimate features.

The classifier's last linear layer is replaced in place, so that every other key of the state dict stays what
torchvision calls it.
"""

from __future__ import annotations

from torch import Tensor, nn

from eif_engine.errors import ModelBundleInvalid
from eif_engine.models.attention import GroupedAttention
from eif_engine.models.bundle import AttentionSettings, FeatureNorm, Pooling

_POOLS: dict[Pooling, type[nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d]] = {
    Pooling.AVG: nn.AdaptiveAvgPool2d,
    Pooling.MAX: nn.AdaptiveMaxPool2d,
}


class PooledTrunk(nn.Module):
    """For networks whose forward pools by a function call: the convolutional trunk, a pool, and the last step.

    Attributes:
        features: The trunk, under the name that torchvision gives it.
        last: What stands in the place of the classifier.
    """

    def __init__(self, features: nn.Module, pool: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.features = features
        self.pool = pool
        self.last = last

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Features (B, F)."""
        features_BF: Tensor = self.last(self.pool(self.features(images_BCHW)).flatten(1))
        return features_BF


def cut_classifier(network: nn.Module, norm: FeatureNorm, features: int | None = None) -> str:
    """Replace the last linear layer by the feature norm, and return its name.

    Args:
        network: Changed in place.
        norm: What comes in its place.
        features: F, where it is not what the layer took.

    Raises:
        ModelBundleInvalid: There is none.
    """
    name, module = last_linear(network)
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, _norm(norm, features or module.in_features))
    return name


def last_linear(network: nn.Module) -> tuple[str, nn.Linear]:
    """The layer that is cut off. Raises ModelBundleInvalid where there is none."""
    linear: list[tuple[str, nn.Linear]] = [
        (name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear)
    ]
    if not linear:
        raise ModelBundleInvalid("the network has no linear layer to cut off", field="architecture.name")
    return linear[-1]


def grouped_attention(network: nn.Module, settings: AttentionSettings) -> GroupedAttention:
    """The attention that fits a network whose classifier is not cut yet.

    Raises:
        ModelBundleInvalid: There is more than dropout between the pooled feature map and the last linear layer, which
            would not fit the features of attention.
    """
    name, module = last_linear(network)
    parent = network.get_submodule(name.rpartition(".")[0])
    if isinstance(parent, nn.Sequential) and any(
        not isinstance(child, nn.Dropout | nn.Identity) for child in parent if child is not module
    ):
        raise ModelBundleInvalid(
            f"pooling {Pooling.GROUPED_ATTENTION.value} is not available for {type(network).__name__}, which has "
            "layers between pooling and classifier: use native",
            field="pooling",
        )
    return GroupedAttention(module.in_features, settings)


def set_pooling(network: nn.Module, pooling: Pooling, cut: str, attention: nn.Module | None = None) -> nn.Module:
    """Pool the last feature map to one value a channel, by average or maximum, or by grouped attention.

    Args:
        network: With its classifier cut; changed in place where that is possible.
        pooling: NATIVE leaves the network as it is.
        cut: What `cut_classifier` returned.
        attention: What pools, for GROUPED_ATTENTION.

    Raises:
        ModelBundleInvalid: The network has no feature map that is pooled right before the classifier.
    """
    if pooling is Pooling.NATIVE:
        return network
    pool = attention if attention is not None else _POOLS[pooling](1)
    if isinstance(getattr(network, "avgpool", None), nn.AdaptiveAvgPool2d) and _pools_to_one(network):
        network.avgpool = pool
        return network
    if type(network).__name__ == "MobileNetV2" and isinstance(network.features, nn.Module):
        return PooledTrunk(network.features, pool, network.get_submodule(cut))
    raise ModelBundleInvalid(
        f"pooling {pooling.value} is not available for {type(network).__name__}: use native", field="pooling"
    )


def _pools_to_one(network: nn.Module) -> bool:
    pool = network.avgpool
    return isinstance(pool, nn.AdaptiveAvgPool2d) and pool.output_size in {1, (1, 1)}


def _norm(norm: FeatureNorm, features: int) -> nn.Module:
    return nn.LayerNorm(features, elementwise_affine=False) if norm is FeatureNorm.LAYER_NORM else nn.Identity()
