"""Putting weights into a backbone, a head and a loss."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from eif_engine.errors import CheckpointIncompatible, InvalidInput, ModelBundleInvalid
from eif_engine.losses.base import ProxyLoss
from eif_engine.losses.make import make_loss
from eif_engine.models.architectures import Backbone
from eif_engine.models.bundle import MODEL_JSON, ModelBundle
from eif_engine.models.compare import Mismatch, compare
from eif_engine.models.head import Head
from eif_engine.models.loss_state import is_loss_key, loss_parameters


def probe_features(backbone: nn.Module, bundle: ModelBundle) -> int:
    """F, by running one blank image.

    Raises:
        ModelBundleInvalid: The network does not take the images that preprocessing gives, or gives no features (B, F).
    """
    shape = bundle.preprocessing.output_shape
    try:
        with torch.inference_mode():
            features = backbone(torch.zeros(1, *shape))
    except Exception as error:  # a network may refuse its input in any way
        reason = str(error).partition("\n")[0]
        raise ModelBundleInvalid(
            f"architecture {bundle.architecture.name} does not take the images of preprocessing, (channels, height, "
            f"width) = {shape}: {reason}",
            field="preprocessing",
        ) from error
    if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != 1:
        given = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ModelBundleInvalid(
            f"architecture {bundle.architecture.name} gave {given} for one image; features are (1, F)",
            field="architecture.name",
        )
    return features.shape[1]


def fit(state: Mapping[str, Tensor], backbone: Backbone, bundle: ModelBundle, feature_dim: int) -> list[Mismatch]:
    """Every way in which the weights do not fit the backbone and the head."""
    expected = {f"backbone.{key}": value for key, value in backbone.module.state_dict().items()}
    expected["head.weight"] = torch.empty(bundle.embedding_dim, feature_dim, device="meta")
    if bundle.head_bias:
        expected["head.bias"] = torch.empty(bundle.embedding_dim, device="meta")
    cut = {f"backbone.{backbone.cut}.weight", f"backbone.{backbone.cut}.bias"} if backbone.cut else set()
    given = {key: value for key, value in state.items() if key not in cut and not is_loss_key(key)}
    return compare(expected, given)


def refuse(mismatches: list[Mismatch], *, name: str) -> None:
    """Raise CheckpointIncompatible with all of them, if any."""
    if mismatches:
        raise CheckpointIncompatible(
            f"{name} does not fit model.json: " + ". ".join(item.message for item in mismatches),
            keys=",".join(key for item in mismatches for key in item.keys[:8]),
        )


def load_backbone(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy the weights that `fit` found to fit, in whatever precision they are, into float32."""
    own = module.state_dict()
    values = {key: state.get(f"backbone.{key}", value) for key, value in own.items()}
    module.load_state_dict(values)


def make_head(state: Mapping[str, Tensor], device: torch.device) -> Head:
    """The last linear layer; a missing bias is zero."""
    weight_DF = state["head.weight"].to(device, torch.float32)
    bias = state.get("head.bias")
    bias_D = torch.zeros(len(weight_DF), device=device) if bias is None else bias.to(device, torch.float32)
    return Head(weight_DF, bias_D)


def bundle_loss(vectors_CKD: Tensor | None, bundle: ModelBundle, device: torch.device) -> ProxyLoss:
    """The loss from what `finite_loss_parameters` gave.

    Raises:
        ModelBundleInvalid: Arguments that a class of pytorch-metric-learning does not take.
    """
    values = None if vectors_CKD is None else vectors_CKD.to(device, torch.float32).contiguous()
    try:
        return make_loss(bundle.loss, values, num_classes=len(bundle.classes), embedding_dim=bundle.embedding_dim)
    except InvalidInput as error:
        raise ModelBundleInvalid(f"{MODEL_JSON}: loss.{error.message}", uri=MODEL_JSON, field="loss") from error


def finite_loss_parameters(state: Mapping[str, Tensor], bundle: ModelBundle, *, name: str) -> Tensor | None:
    """`loss_parameters`, which must also be finite. Raises CheckpointIncompatible."""
    found = loss_parameters(
        state, bundle.loss, num_classes=len(bundle.classes), embedding_dim=bundle.embedding_dim, name=name
    )
    if found is not None:
        refuse(compare({"proxies": found}, {"proxies": found}), name=name)
    return found
