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
from eif_engine.models.bundle import (
    MODEL_JSON,
    Architecture,
    FeatureNorm,
    LossSettings,
    ModelBundle,
    Pooling,
    ProxyNcaSettings,
    Weights,
)
from eif_engine.models.digests import file_sha256
from eif_engine.models.schema import invalid

WEIGHTS_FILE = "weights.safetensors"


def state_dict_of(*, backbone: nn.Module, head: nn.Linear, proxies: Tensor) -> dict[str, Tensor]:
    """The state dict of a bundle from the parts of a training loop.

    Args:
        backbone: Images to features.
        head: The last linear layer, F to D.
        proxies: (C, D) for ProxyNCA++, or the centres (C, K, D) for SoftTriple.
    """
    state = {f"backbone.{key}": value for key, value in backbone.state_dict().items()}
    state |= {f"head.{key}": value for key, value in head.state_dict().items()}
    return state | {"loss.proxies" if proxies.ndim == 2 else "loss.centers": proxies}


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
) -> Path:
    """Write a bundle: weights.safetensors, then model.json, so that a model.json always has its weights.

    Args:
        folder: Made if it is not there.
        architecture: The backbone by name.
        loss: What the model was trained with.
        classes: The training classes, in the order of the proxies.
        preprocessing: From an image to the backbone's input.
        state_dict: `backbone.*`, `head.weight`, `head.bias` and `loss.proxies` or `loss.centers`; see `state_dict_of`.
        pooling: Of a torchvision backbone.
        feature_norm: Of a torchvision backbone.

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
    key = "loss.proxies" if isinstance(loss, ProxyNcaSettings) else "loss.centers"
    for needed in ("head.weight", key):
        if needed not in state:
            raise CheckpointIncompatible(f"the state dict has no {needed}", keys=needed)
    embedding_dim = state["head.weight"].shape[0]
    centers = () if isinstance(loss, ProxyNcaSettings) else (loss.centers_per_class,)
    shape = (num_classes, *centers, embedding_dim)
    if tuple(state[key].shape) != shape:
        raise CheckpointIncompatible(
            f"{key} has shape {tuple(state[key].shape)}, but {num_classes} classes and head.weight of {embedding_dim} "
            f"rows need {shape}",
            keys=key,
        )
