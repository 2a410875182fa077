"""Small backbones for small images, and an example of what an entry point of `eif.architectures` looks like."""

from __future__ import annotations

from torch import nn

from eif_engine.models.attention import GroupedAttention
from eif_engine.models.bundle import AttentionSettings

POOLINGS = 4


def conv4(
    *,
    in_channels: int = 1,
    width: int = 64,
    image_size: int = 32,
    groups: int = 0,
    key_dim: int = 64,
    value_dim: int = 64,
) -> nn.Module:
    """Four blocks of 3x3 convolution, batch norm, ReLU and 2x2 max pooling.

    The first two blocks have `width` channels, the last two twice as many, so that an image of 32 x 32 and the default
    width give F = 2 * 64 * 2 * 2 = 512 features. With `groups`, grouped attention pools the last feature map instead,
    to F = groups * value_dim.
    """
    _at_least("in_channels", in_channels, 1)
    _at_least("width", width, 1)
    _at_least("image_size", image_size, 2**POOLINGS)
    channels = (in_channels, width, width, 2 * width, 2 * width)
    blocks = [_block(channels[i], channels[i + 1]) for i in range(POOLINGS)]
    if groups == 0:
        return nn.Sequential(*blocks, nn.Flatten())
    settings = AttentionSettings(groups=groups, key_dim=key_dim, value_dim=value_dim)
    return nn.Sequential(*blocks, GroupedAttention(channels[-1], settings))


def mlp(*, in_channels: int = 1, image_size: int = 8, hidden: int = 256, features: int = 128) -> nn.Module:
    """Pixels, a hidden layer and `features` outputs, with a ReLU after each layer."""
    for name, value in (
        ("in_channels", in_channels),
        ("image_size", image_size),
        ("hidden", hidden),
        ("features", features),
    ):
        _at_least(name, value, 1)
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(in_channels * image_size * image_size, hidden),
        nn.ReLU(),
        nn.Linear(hidden, features),
        nn.ReLU(),
    )


def _block(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )


def _at_least(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, not {value!r}")
