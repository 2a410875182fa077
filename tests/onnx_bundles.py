"""Tiny ONNX bundles made by hand, sound and unsound, and images to embed with them."""

from __future__ import annotations

import hashlib
import json
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

SIDE = 8
DIM = 4
FEATURES = 6
BATCH = "batch"


def weights(seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(pixels, F) and (F, D) of the network below."""
    rng = np.random.default_rng(seed)
    first = rng.standard_normal((SIDE * SIDE, FEATURES)).astype(np.float32)
    return first, rng.standard_normal((FEATURES, DIM)).astype(np.float32)


def network(
    *,
    seed: int = 0,
    nodes: Sequence[onnx.NodeProto] = (),
    batch: str | int = BATCH,
    opsets: Sequence[tuple[str, int]] = (("", 18),),
    outputs: Sequence[str] = ("embedding", "features"),
) -> onnx.ModelProto:
    """features = Flatten(images) @ first, embedding = normalize(features @ second); `nodes` are put in front."""
    first, second = weights(seed)
    graph = helper.make_graph(
        [
            *nodes,
            helper.make_node("Flatten", ["images"], ["pixels"]),
            helper.make_node("MatMul", ["pixels", "first"], ["features"]),
            helper.make_node("MatMul", ["features", "second"], ["z"]),
            helper.make_node("LpNormalization", ["z"], ["embedding"], axis=1, p=2),
        ],
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 1, SIDE, SIDE])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, {"embedding": DIM}.get(name, FEATURES)])
            for name in outputs
        ],
        [numpy_helper.from_array(first, "first"), numpy_helper.from_array(second, "second")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(*one) for one in opsets], ir_version=10)


def external(model: onnx.ModelProto, *, location: str, name: str = "first", length: int | None = None) -> bytes:
    """Say that an initializer lies in another file. Returns its bytes."""
    (tensor,) = (one for one in model.graph.initializer if one.name == name)
    data = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entries = {"location": location, "offset": "0", "length": str(len(data) if length is None else length)}
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    return data


def write_bundle(
    folder: Path, model: onnx.ModelProto | bytes | None = None, *, data: dict[str, bytes] | None = None, **changes: Any
) -> Path:
    """A folder with model.onnx, the external files `data`, and onnx.json with its digests and `changes`."""
    folder.mkdir(parents=True, exist_ok=True)
    model = network() if model is None else model
    files = {"model.onnx": model if isinstance(model, bytes) else model.SerializeToString(), **(data or {})}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    refs = [{"file": name, "sha256": hashlib.sha256(content).hexdigest()} for name, content in files.items()]
    fields = {
        "onnx": refs[0],
        "external_data": refs[1:],
        "input": {"shape": [1, SIDE, SIDE]},
        "embedding_dim": DIM,
        "feature_dim": FEATURES,
        "opset": 18,
        "preprocessing": {"mode": "L", "resize": [SIDE, SIDE], "mean": [0.5], "std": [0.5]},
        "weights_sha256": "ab" * 32,
        "classes": ["a", "b"],
    }
    (folder / "onnx.json").write_text(json.dumps(fields | changes))
    return folder


def pixels(seed: int) -> NDArray[np.uint8]:
    """A random grey image of the size that the network takes."""
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)


def png(seed: int) -> bytes:
    """The same as a file."""
    file = BytesIO()
    Image.fromarray(pixels(seed)).save(file, "PNG")
    return file.getvalue()


def prepared(seed: int) -> NDArray[np.float32]:
    """The same as the network takes it, (1, SIDE, SIDE)."""
    half = np.float32(0.5)
    return (pixels(seed).astype(np.float32) / np.float32(255) - half)[None] / half


def expected(images: Sequence[int], *, seed: int = 0, space: str = "embedding") -> NDArray[np.float64]:
    """What the network gives for `prepared` images, L2-normalised, in float64."""
    first, second = (one.astype(np.float64) for one in weights(seed))
    rows = np.stack([prepared(image).astype(np.float64).ravel() for image in images]) @ first
    if space == "embedding":
        rows = rows @ second
    normalized: NDArray[np.float64] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return normalized
