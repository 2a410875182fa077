"""A bundle as an ONNX model, held against PyTorch on real images before anyone may use it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from eif_engine.data.images import decode_image
from eif_engine.data.preprocessing import Preprocessing
from eif_engine.errors import ImageInvalid, InvalidInput, OnnxInvalid
from eif_engine.models.checkpoint import load_model
from eif_engine.models.digests import file_sha256
from eif_engine.models.loaded import LoadedModel
from eif_engine.models.onnx_bundle import (
    EMBEDDING,
    FEATURES,
    INPUT,
    ONNX_FILE,
    ONNX_JSON,
    OnnxBundle,
    OnnxInput,
    Verification,
)
from eif_engine.models.onnx_verify import BATCH_SIZES, largest_difference
from eif_engine.models.save import write_json
from eif_engine.models.schema import FileRef

DEFAULT_OPSET, MIN_OPSET, MAX_OPSET = 18, 18, 23
DEFAULT_MAX_DIFFERENCE = 1e-3
MAX_IMAGES = 64
MAX_INLINE_BYTES = 1_500_000_000
"""Protocol buffers end at 2 GB; larger weights go to a file of their own."""


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was exported, and how it was verified.

    Attributes:
        onnx_json: Path of onnx.json.
        bundle: What it says.
        verification: Largest difference found, and on what.
    """

    onnx_json: Path
    bundle: OnnxBundle
    verification: Verification


class EmbeddingGraph(nn.Module):
    """Images (B, C, H, W) to the L2-normalised embedding (B, D) and the features (B, F)."""

    weight: Tensor
    bias: Tensor

    def __init__(self, model: LoadedModel) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.register_buffer("weight", model.head.weight_DF)
        self.register_buffer("bias", model.head.bias_D)

    def forward(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Embedding and features."""
        features_BF: Tensor = self.backbone(images_BCHW)
        return F.normalize(F.linear(features_BF, self.weight, self.bias), dim=1), features_BF


def export_onnx(
    folder: Path,
    out_folder: Path,
    images: Sequence[Path | bytes],
    *,
    opset: int = DEFAULT_OPSET,
    max_difference: float = DEFAULT_MAX_DIFFERENCE,
) -> ExportReport:
    """Write `model.onnx` and then `onnx.json`, or nothing.

    Args:
        folder: Of the model bundle.
        out_folder: Made if it is not there; an earlier export in it is replaced once the new one is verified.
        images: Real images to verify on, files or their bytes; the first MAX_IMAGES are used.
        opset: Of the default ONNX domain, MIN_OPSET to MAX_OPSET.
        max_difference: Largest absolute difference of normalised embeddings that is accepted.

    Raises:
        OnnxInvalid: The network cannot be exported, or differs from PyTorch by more than `max_difference`.
        ImageInvalid: A sample image cannot be read.
        InvalidInput: No sample images, or an opset out of range.
        EifError: As `load_model` raises.
    """
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise InvalidInput(f"opset must be {MIN_OPSET} to {MAX_OPSET}, not {opset}", field="opset")
    model = load_model(folder)
    inputs = _read_images(images, model.preprocessing)
    out_folder.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".export-", dir=out_folder))
    try:
        graph = EmbeddingGraph(model).eval()
        path = _export(graph, inputs, scratch / ONNX_FILE, opset)
        verification = _verify(graph, path, inputs, max_difference)
        bundle = _describe(model, path, opset, verification)
        return ExportReport(onnx_json=_publish(scratch, out_folder, bundle), bundle=bundle, verification=verification)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _read_images(images: Sequence[Path | bytes], preprocessing: Preprocessing) -> NDArray[np.float32]:
    if not images:
        raise InvalidInput("an export is verified on real images: give at least one", field="images")
    arrays = [preprocessing.apply(_decode(image, number)) for number, image in enumerate(images[:MAX_IMAGES], start=1)]
    return np.stack(arrays)


def _decode(image: Path | bytes, number: int) -> Image.Image:
    if isinstance(image, bytes):
        return decode_image(image, uri=f"image {number}")
    try:
        return decode_image(image.read_bytes(), uri=str(image))
    except OSError as error:
        raise ImageInvalid(f"{image}: cannot be read: {error.strerror}", uri=str(image)) from error


def _export(graph: nn.Module, inputs_NCHW: NDArray[np.float32], path: Path, opset: int) -> Path:
    size = sum(value.numel() * value.element_size() for value in graph.state_dict().values())
    example = torch.from_numpy(np.repeat(inputs_NCHW[:1], 2, axis=0))  # 1 would be taken for a constant
    try:
        torch.onnx.export(
            graph,
            (example,),
            path,
            input_names=[INPUT],
            output_names=[EMBEDDING, FEATURES],
            opset_version=opset,
            dynamo=True,
            dynamic_shapes={"images_BCHW": {0: torch.export.Dim("batch")}},
            external_data=size > MAX_INLINE_BYTES,
            verbose=False,
        )
    except Exception as error:  # the exporter raises anything on a network that it cannot follow
        reason = str(error).partition("\n")[0]
        raise OnnxInvalid(f"the network cannot be exported to ONNX with a batch of any size: {reason}") from error
    _strip_traces(path)
    return path


def _strip_traces(path: Path) -> None:
    """Take out the exporter's stack traces: they name folders of this machine, and make equal models differ."""
    model = onnx.load(path, load_external_data=False)
    for node in (*model.graph.node, *(node for function in model.functions for node in function.node)):
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        value.ClearField("metadata_props")
    model.graph.ClearField("metadata_props")
    model.ClearField("metadata_props")
    onnx.save(model, path)


def _verify(graph: nn.Module, path: Path, inputs_NCHW: NDArray[np.float32], limit: float) -> Verification:
    difference = largest_difference(graph, path, inputs_NCHW)
    if not difference <= limit:
        raise OnnxInvalid(
            f"ONNX and PyTorch differ by {difference:.3g} in normalised embeddings on {len(inputs_NCHW)} images, over "
            f"the limit of {limit:g}: nothing was written",
            max_abs_difference=difference,
            limit=limit,
        )
    return Verification(images=len(inputs_NCHW), batch_sizes=BATCH_SIZES, max_abs_difference=difference, limit=limit)


def _describe(model: LoadedModel, path: Path, opset: int, verification: Verification) -> OnnxBundle:
    embedding_dim, feature_dim = model.head.weight_DF.shape
    return OnnxBundle(
        onnx=FileRef(file=path.name, sha256=file_sha256(path)),
        external_data=tuple(
            FileRef(file=file.name, sha256=file_sha256(file)) for file in sorted(path.parent.iterdir()) if file != path
        ),
        input=OnnxInput(shape=model.preprocessing.output_shape),
        embedding_dim=embedding_dim,
        feature_dim=feature_dim,
        opset=opset,
        preprocessing=model.preprocessing,
        weights_sha256=model.weights_sha256,
        classes=model.classes,
        verification=verification,
    )


def _publish(scratch: Path, out_folder: Path, bundle: OnnxBundle) -> Path:
    """Without onnx.json there is no export: it goes first when one is replaced, and comes last."""
    (out_folder / ONNX_JSON).unlink(missing_ok=True)
    for ref in bundle.files:
        (scratch / ref.file).replace(out_folder / ref.file)
    return write_json(out_folder / ONNX_JSON, bundle.model_dump_json(indent=2))
