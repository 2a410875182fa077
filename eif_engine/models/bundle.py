"""The model bundle: model.json, which says what a checkpoint is, with the weights beside it. No torch.

A bundle never carries code. The architecture is the name of a torchvision classification network or of an installed
entry point of the group `eif.architectures`; weights are safetensors or a state dict that is loaded weights-only.
"""

from __future__ import annotations

import hashlib
import json
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from eif_engine.data.preprocessing import Preprocessing
from eif_engine.losses.settings import LossSettings, has_parameters
from eif_engine.models.schema import Classes, FileRef, Strict, parse, read

MODEL_JSON = "model.json"
FEATURES_VERSION = 1
"""Raised when the same bundle and the same image would give other features than before: cached features then miss."""

MAX_EMBEDDING_DIM = 65_536
MAX_ATTENTION_FEATURES = 65_536


class Pooling(StrEnum):
    """How a torchvision network turns its last feature map into F features; GROUPED_ATTENTION is in attention.py."""

    NATIVE = "native"
    AVG = "avg"
    MAX = "max"
    GROUPED_ATTENTION = "grouped_attention"


class FeatureNorm(StrEnum):
    """What is done to the F features before the head; LAYER_NORM has no weights, as in the published EIF networks."""

    NONE = "none"
    LAYER_NORM = "layer_norm"


class WeightsFormat(StrEnum):
    """How keys of the weights are named.

    STATE_DICT: `backbone.*`, `head.weight`, `head.bias`, and `loss.*` (see loss_state.py).
    EIF_PUBLISHED: `module.0.*` (backbone) and `module.1.*` (head), the loss in a file of its own.
    """

    STATE_DICT = "state_dict"
    EIF_PUBLISHED = "eif_published"


class Architecture(Strict):
    """A network by name; `options` go to the function that builds it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    options: dict[str, JsonValue] = Field(default_factory=dict)


class AttentionSettings(Strict):
    """Sizes of grouped attention: F is `groups * value_dim`."""

    groups: int = Field(ge=1, le=256)
    key_dim: int = Field(default=64, ge=1, le=4096)
    value_dim: int = Field(default=64, ge=1, le=4096)

    @model_validator(mode="after")
    def _features_are_bounded(self) -> AttentionSettings:
        if self.groups * self.value_dim > MAX_ATTENTION_FEATURES:
            raise ValueError(f"groups * value_dim is {self.groups * self.value_dim:,}, over {MAX_ATTENTION_FEATURES:,}")
        return self


class Weights(FileRef):
    """The checkpoint. `.safetensors`, or a state dict in `.pt` or `.pth`."""

    format: WeightsFormat = WeightsFormat.STATE_DICT


class ModelBundle(Strict):
    """model.json.

    Attributes:
        schema_version: 1.
        architecture: The backbone, images (B, C, H, W) to features (B, F).
        pooling: Of a torchvision backbone.
        attention: Of pooling GROUPED_ATTENTION, and of it alone.
        feature_norm: Of a torchvision backbone.
        embedding_dim: D.
        head_bias: Whether the last linear layer, F to D, has a bias.
        loss: What the model was trained with.
        classes: The training classes, in the order of the proxies.
        preprocessing: From an image to the network's input.
        weights: Backbone and head, and the loss too unless `proxies` is given or the loss has no parameters.
        proxies: Parameters of the loss when they are a file of their own.
    """

    schema_version: Literal[1] = 1
    architecture: Architecture
    pooling: Pooling = Pooling.NATIVE
    attention: AttentionSettings | None = None
    feature_norm: FeatureNorm = FeatureNorm.NONE
    embedding_dim: int = Field(ge=1, le=MAX_EMBEDDING_DIM)
    head_bias: bool = True
    loss: LossSettings
    classes: Classes
    preprocessing: Preprocessing
    weights: Weights
    proxies: FileRef | None = None

    @field_validator("weights", "proxies")
    @classmethod
    def _state_dict_file(cls, value: FileRef | None) -> FileRef | None:
        if value is not None and not value.file.endswith((".safetensors", ".pt", ".pth")):
            raise ValueError(
                f"file {value.file} is not .safetensors, .pt or .pth: save the state dict with "
                "safetensors.torch.save_file, or with torch.save(model.state_dict(), ...)"
            )
        return value

    @model_validator(mode="after")
    def _attention_has_settings(self) -> ModelBundle:
        if (self.pooling is Pooling.GROUPED_ATTENTION) != (self.attention is not None):
            raise ValueError("attention and pooling grouped_attention go together: give both or neither")
        return self

    @model_validator(mode="after")
    def _published_layout_has_proxies(self) -> ModelBundle:
        separate = self.weights.format is WeightsFormat.EIF_PUBLISHED and has_parameters(self.loss)
        if separate and self.proxies is None:
            raise ValueError("proxies is missing: the published layout keeps the loss in a file of its own (proxy.pth)")
        if self.proxies is not None and not has_parameters(self.loss):
            raise ValueError("proxies is for losses with learnt vectors; this one compares samples with a bank")
        return self

    @property
    def files(self) -> tuple[FileRef, ...]:
        """The files beside model.json."""
        return (self.weights,) if self.proxies is None else (self.weights, self.proxies)


def parse_bundle(data: bytes | str, *, uri: str = MODEL_JSON) -> ModelBundle:
    """Read model.json from memory. Raises ModelBundleInvalid, naming the fields."""
    return parse(ModelBundle, data, uri=uri)


def read_bundle(folder: Path) -> ModelBundle:
    """Read `folder/model.json`. Raises ModelBundleInvalid, naming the fields."""
    return read(ModelBundle, folder / MODEL_JSON)


def model_key(bundle: ModelBundle) -> str:
    """What a feature depends on besides its image, as a sha256 (hex): the key of cached features."""
    facts = {
        "features_version": FEATURES_VERSION,
        **bundle.model_dump(mode="json", include={"architecture", "pooling", "feature_norm", "preprocessing"}),
        "weights": bundle.weights.model_dump(mode="json", include={"sha256", "format"}),
    }
    if bundle.attention is not None:  # not otherwise: keys of features that are cached already stay as they are
        facts["attention"] = bundle.attention.model_dump(mode="json")
    return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
