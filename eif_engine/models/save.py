"""Writing a model bundle."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError
from safetensors.torch import save
from torch import Tensor, nn

from eif_engine.data.preprocessing import Preprocessing
from eif_engine.errors import CheckpointIncompatible
from eif_engine.losses.settings import LossSettings, SoftTripleSettings, has_parameters
from eif_engine.models.bundle import (
    MODEL_JSON,
    Architecture,
    AttentionSettings,
    FeatureNorm,
    ModelBundle,
    Pooling,
    Weights,
)
from eif_engine.models.digests import file_sha256
from eif_engine.models.loss_state import centers_per_class, loss_parameters
from eif_engine.models.schema import invalid

WEIGHTS_FILE = "weights.safetensors"


def state_dict_of(
    *, backbone: nn.Module, head: nn.Linear, proxies: Tensor | Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    """The state dict of a bundle from the parts of a training loop.

    Args:
        backbone: Images to features.
        head: The last linear layer, F to D.
        proxies: One vector a class (C, D), or the centres (C, K, D) of SoftTriple; or the state dict of a loss of
            pytorch-metric-learning; None for a loss of pairs or triplets.
    """
    state = {f"backbone.{key}": value for key, value in backbone.state_dict().items()}
    state |= {f"head.{key}": value for key, value in head.state_dict().items()}
    if proxies is None:
        return state
    if isinstance(proxies, Tensor):
        return state | {"loss.proxies" if proxies.ndim == 2 else "loss.centers": proxies}
    return state | {f"loss.{key}": value for key, value in proxies.items()}


def save_bundle(
    folder: Path,
    *,
    architecture: Architecture,
    loss: LossSettings,
    classes: Sequence[str],
    preprocessing: Preprocessing,
    state_dict: Mapping[str, Tensor],
    pooling: Pooling = Pooling.NATIVE,
    feature_norm: FeatureNorm = FeatureNorm.NONE,
    attention: AttentionSettings | None = None,
) -> Path:
    """Write a bundle: weights.safetensors, then model.json, so that a model.json always has its weights.

    Args:
        folder: Made if it is not there.
        architecture: The backbone by name.
        loss: What the model was trained with.
        classes: The training classes, in the order of the proxies.
        preprocessing: From an image to the backbone's input.
        state_dict: `backbone.*`, `head.weight`, `head.bias` and `loss.*`; see `state_dict_of`.
        pooling: Of a torchvision backbone.
        feature_norm: Of a torchvision backbone.
        attention: Of pooling GROUPED_ATTENTION.

    Returns:
        The path of model.json.

    Raises:
        CheckpointIncompatible: The head or the parameters of the loss are missing, or do not fit.
        ModelBundleInvalid: A field breaks the schema.
    """
    _check_head_and_loss(state_dict, loss, len(classes))
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / WEIGHTS_FILE
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in state_dict.items()}
    _write(weights, save(tensors))
    try:
        bundle = ModelBundle(
            architecture=architecture,
            pooling=pooling,
            feature_norm=feature_norm,
            attention=attention,
            embedding_dim=state_dict["head.weight"].shape[0],
            head_bias="head.bias" in state_dict,
            loss=loss,
            classes=tuple(classes),
            preprocessing=preprocessing,
            weights=Weights(file=WEIGHTS_FILE, sha256=file_sha256(weights)),
        )
    except ValidationError as error:
        raise invalid(error, uri=MODEL_JSON) from error
    return write_json(folder / MODEL_JSON, bundle.model_dump_json(indent=2))


def write_json(path: Path, text: str) -> Path:
    """Write a file that is complete or absent."""
    return _write(path, f"{text}\n".encode())


def _write(path: Path, data: bytes) -> Path:
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return partial.replace(path)


def _check_head_and_loss(state: Mapping[str, Tensor], loss: LossSettings, num_classes: int) -> None:
    if "head.weight" not in state:
        raise CheckpointIncompatible("the state dict has no head.weight", keys="head.weight")
    if not has_parameters(loss):
        return
    own = {key: value for key, value in state.items() if key.startswith("loss.")}
    if not own:
        key = "loss.centers" if isinstance(loss, SoftTripleSettings) else "loss.proxies"
        raise CheckpointIncompatible(f"the state dict has no {key}", keys=key)
    embedding_dim = state["head.weight"].shape[0]
    try:
        loss_parameters(own, loss, num_classes=num_classes, embedding_dim=embedding_dim, name="the state dict")
    except CheckpointIncompatible as error:
        centers = () if centers_per_class(loss) == 1 else (centers_per_class(loss),)
        raise CheckpointIncompatible(
            f"{error.message}: {num_classes} classes and head.weight of {embedding_dim} rows need "
            f"{(num_classes, *centers, embedding_dim)}",
            **error.metadata,
        ) from error
