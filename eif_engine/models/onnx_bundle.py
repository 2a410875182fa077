"""onnx.json: what the ONNX model beside it takes and gives. No torch, no onnx.

The graph has one input `images` (B, C, H, W), float32, any B, and two outputs: `embedding` (B, D), L2-normalised, and
`features` (B, F), the input of the last linear layer, which may be missing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from eif_engine.data.preprocessing import Preprocessing
from eif_engine.models.bundle import MAX_EMBEDDING_DIM
from eif_engine.models.schema import Classes, FileRef, Sha256, Strict, parse, read

ONNX_JSON = "onnx.json"
ONNX_FILE = "model.onnx"
INPUT, EMBEDDING, FEATURES = "images", "embedding", "features"
MAX_EXTERNAL_FILES = 64

TensorName = Annotated[str, Field(min_length=1, max_length=128)]


class OnnxInput(Strict):
    """The input: float32 of shape (B, *shape), with shape = (C, H, W)."""

    name: TensorName = INPUT
    shape: tuple[int, int, int]


class OnnxOutputs(Strict):
    """Names of the outputs; `features` is null when the model does not give them."""

    embedding: TensorName = EMBEDDING
    features: TensorName | None = FEATURES


class Verification(Strict):
    """How the export was held against PyTorch: largest absolute difference of normalised embeddings on real images."""

    images: int = Field(ge=1)
    batch_sizes: tuple[int, ...]
    max_abs_difference: float = Field(ge=0, allow_inf_nan=False)
    limit: float = Field(gt=0, allow_inf_nan=False)


class OnnxBundle(Strict):
    """onnx.json.

    Attributes:
        schema_version: 1.
        onnx: The model.
        external_data: Every file that the model refers to; empty unless the model is over 2 GB.
        input: Name and shape.
        outputs: Names.
        embedding_dim: D.
        feature_dim: F; 0 when and only when there is no output for the features.
        opset: Of the default ONNX domain.
        preprocessing: From an image to the input.
        weights_sha256: The checkpoint it was exported from.
        classes: The training classes.
        verification: How it was held against PyTorch when it was exported.
    """

    schema_version: Literal[1] = 1
    onnx: FileRef
    external_data: tuple[FileRef, ...] = Field(default=(), max_length=MAX_EXTERNAL_FILES)
    input: OnnxInput
    outputs: OnnxOutputs = OnnxOutputs()
    embedding_dim: int = Field(ge=1, le=MAX_EMBEDDING_DIM)
    feature_dim: int = Field(ge=0)
    opset: int = Field(ge=13, le=30)
    preprocessing: Preprocessing
    weights_sha256: Sha256
    classes: Classes
    verification: Verification | None = None

    @field_validator("onnx")
    @classmethod
    def _onnx_file(cls, value: FileRef) -> FileRef:
        if not value.file.endswith(".onnx"):
            raise ValueError(f"file {value.file} is not .onnx")
        return value

    @model_validator(mode="after")
    def _one_file_once(self) -> OnnxBundle:
        names = [ref.file for ref in self.files]
        if len(set(names)) < len(names):
            raise ValueError(f"onnx and external_data name a file twice: {', '.join(sorted(names))}")
        return self

    @model_validator(mode="after")
    def _features_have_a_size(self) -> OnnxBundle:
        if (self.outputs.features is None) != (self.feature_dim == 0):
            raise ValueError(
                f"outputs.features is {self.outputs.features!r} and feature_dim is {self.feature_dim}: "
                "give both, or null and 0 for a model without features"
            )
        return self

    @model_validator(mode="after")
    def _preprocessing_fits_the_input(self) -> OnnxBundle:
        if self.preprocessing.output_shape != self.input.shape:
            raise ValueError(
                f"input.shape is {list(self.input.shape)}, but preprocessing gives "
                f"{list(self.preprocessing.output_shape)} (channels, height, width)"
            )
        return self

    @property
    def files(self) -> tuple[FileRef, ...]:
        """The files beside onnx.json."""
        return (self.onnx, *self.external_data)


def parse_onnx_bundle(data: bytes | str, *, uri: str = ONNX_JSON) -> OnnxBundle:
    """Read onnx.json from memory. Raises ModelBundleInvalid, naming the fields."""
    return parse(OnnxBundle, data, uri=uri)


def read_onnx_bundle(folder: Path) -> OnnxBundle:
    """Read `folder/onnx.json`. Raises ModelBundleInvalid, naming the fields."""
    return read(OnnxBundle, folder / ONNX_JSON)
