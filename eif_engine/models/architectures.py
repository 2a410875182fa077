"""Backbones by name: torchvision's classification networks, and installed entry points of `eif.architectures`.

Code never comes from a model file, and weights are never downloaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import torch
from torch import nn

from eif_engine.errors import EifError, ModelBundleInvalid
from eif_engine.models.bundle import Architecture, AttentionSettings, FeatureNorm, ModelBundle, Pooling
from eif_engine.models.pooling import cut_classifier, grouped_attention, set_pooling

ENTRY_POINT_GROUP = "eif.architectures"
MAX_PARAMETERS = 2_000_000_000

_FORBIDDEN_OPTIONS = frozenset({"weights", "weights_backbone", "pretrained", "progress", "num_classes"})
_NO_INIT = frozenset({"googlenet", "inception_v3"})  # their slow initialisation warns, and weights are loaded anyway


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A backbone with random weights.

    Attributes:
        module: Images (B, C, H, W) to features (B, F), in eval mode.
        cut: Name of the classifier layer that was cut off, whose weights a checkpoint may still hold; or empty.
    """

    module: nn.Module
    cut: str = ""


def installed_architectures() -> dict[str, str]:
    """Every name that a bundle may use, and where it comes from."""
    from torchvision import models as torchvision_models  # a second or more, which networks of one's own do not need

    names = dict.fromkeys(torchvision_models.list_models(module=torchvision_models), "torchvision")
    return names | {point.name: point.value for point in entry_points(group=ENTRY_POINT_GROUP)}


def build_backbone(
    architecture: Architecture,
    *,
    pooling: Pooling = Pooling.NATIVE,
    feature_norm: FeatureNorm = FeatureNorm.NONE,
    attention: AttentionSettings | None = None,
) -> Backbone:
    """Build a backbone; the caller's random state is left as it was.

    Args:
        architecture: By name.
        pooling: Of a torchvision network.
        feature_norm: Of a torchvision network.
        attention: Settings of pooling GROUPED_ATTENTION.

    Raises:
        ModelBundleInvalid: No such architecture, options that it does not take, or a network that is too large.
    """
    point = _entry_point(architecture.name)
    if point is None:
        _check_torchvision(architecture)
    elif pooling is not Pooling.NATIVE or feature_norm is not FeatureNorm.NONE:
        raise ModelBundleInvalid(
            f"architecture {architecture.name} does its own pooling and normalisation: set pooling to native and "
            "feature_norm to none",
            field="pooling" if pooling is not Pooling.NATIVE else "feature_norm",
        )
    if (pooling is Pooling.GROUPED_ATTENTION) != (attention is not None):
        raise ModelBundleInvalid("attention and pooling grouped_attention go together", field="attention")
    build = _torchvision_builder(architecture) if point is None else _entry_point_builder(architecture, point)
    with torch.random.fork_rng(devices=[]):
        if architecture.options:
            _check_size(build, architecture)
        module = _build(build, architecture)
        pool = None if attention is None else grouped_attention(module, attention)
    if point is None:
        features = None if attention is None else attention.groups * attention.value_dim
        cut = cut_classifier(module, feature_norm, features)
        module = set_pooling(module, pooling, cut, pool)
    else:
        cut = ""
    return Backbone(module=module.eval().requires_grad_(requires_grad=False), cut=cut)


def bundle_backbone(bundle: ModelBundle) -> Backbone:
    """The backbone of a bundle, as `build_backbone` builds it."""
    return build_backbone(
        bundle.architecture, pooling=bundle.pooling, feature_norm=bundle.feature_norm, attention=bundle.attention
    )


def _check_torchvision(architecture: Architecture) -> None:
    names = installed_architectures()
    name = architecture.name
    if name not in names:
        near = get_close_matches(name, names, n=3)
        hint = f" (did you mean {' or '.join(near)}?)" if near else ""
        own = ", ".join(sorted(key for key, source in names.items() if source != "torchvision"))
        raise ModelBundleInvalid(
            f"there is no architecture {name!r}{hint}; installed are {own} and torchvision's "
            f"{', '.join(sorted(key for key, source in names.items() if source == 'torchvision'))}",
            field="architecture.name",
        )
    forbidden = sorted(_FORBIDDEN_OPTIONS & architecture.options.keys())
    if forbidden:
        raise ModelBundleInvalid(
            f"architecture.options.{forbidden[0]} is not an option: weights come from the bundle alone",
            field=f"architecture.options.{forbidden[0]}",
        )


def _entry_point(name: str) -> EntryPoint | None:
    return next(iter(entry_points(group=ENTRY_POINT_GROUP, name=name)), None)


def _entry_point_builder(architecture: Architecture, point: EntryPoint) -> Callable[[], object]:
    try:
        function: Callable[..., object] = point.load()
    except Exception as error:  # an installed package may fail to import in any way
        raise ModelBundleInvalid(
            f"architecture {point.name} ({point.value}) is installed but cannot be imported: {error}",
            field="architecture.name",
        ) from error
    return lambda: function(**architecture.options)


def _torchvision_builder(architecture: Architecture) -> Callable[[], object]:
    options: dict[str, Any] = dict(architecture.options)
    if architecture.name in _NO_INIT:
        options.setdefault("init_weights", False)
    from torchvision import models as torchvision_models

    return lambda: torchvision_models.get_model(architecture.name, weights=None, **options)


def _build(build: Callable[[], object], architecture: Architecture) -> nn.Module:
    try:
        module = build()
    except EifError:
        raise
    except Exception as error:  # a constructor may refuse its options in any way
        raise ModelBundleInvalid(
            f"architecture {architecture.name} does not take options {architecture.options}: {error}",
            field="architecture.options",
        ) from error
    if not isinstance(module, nn.Module):
        raise ModelBundleInvalid(
            f"architecture {architecture.name} gave a {type(module).__name__}, not a torch.nn.Module",
            field="architecture.name",
        )
    return module


def _check_size(build: Callable[[], object], architecture: Architecture) -> None:
    """Build it on the meta device, where nothing is allocated: options alone must not fill the memory."""
    try:
        with torch.device("meta"):
            module = build()
    except Exception:  # noqa: BLE001 - a constructor that reads its own weights cannot be built there
        return
    parameters = sum(value.numel() for value in module.parameters()) if isinstance(module, nn.Module) else 0
    if parameters > MAX_PARAMETERS:
        raise ModelBundleInvalid(
            f"architecture {architecture.name} with options {architecture.options} has {parameters:,} parameters, over "
            f"the limit of {MAX_PARAMETERS:,}",
            field="architecture.options",
        )
