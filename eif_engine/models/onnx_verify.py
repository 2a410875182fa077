"""An ONNX model held against PyTorch, in batches of several sizes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from eif_engine.errors import OnnxInvalid
from eif_engine.models.onnx_bundle import EMBEDDING, FEATURES, INPUT

BATCH_SIZES = (1, 3, 8)


def largest_difference(graph: nn.Module, path: Path, inputs_NCHW: NDArray[np.float32]) -> float:
    """Largest absolute difference between the normalised embeddings of ONNX Runtime (CPU) and of PyTorch.

    Args:
        graph: Images to (embedding, features).
        path: The ONNX model.
        inputs_NCHW: Preprocessed real images, at least one. Every one runs in every batch size.

    Returns:
        The difference; infinite when either gives values that are not finite.

    Raises:
        OnnxInvalid: ONNX Runtime refuses the model, or a batch size.
    """
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return max(_difference(graph, session, batch) for size in BATCH_SIZES for batch in _batches(inputs_NCHW, size))
    except OnnxInvalid:
        raise
    except Exception as error:  # ONNX Runtime's own errors have no common base
        raise OnnxInvalid(f"ONNX Runtime refuses the exported model: {error}") from error


def _difference(graph: nn.Module, session: onnxruntime.InferenceSession, batch: NDArray[np.float32]) -> float:
    with torch.inference_mode():
        embedding, features = (value.numpy() for value in graph(torch.from_numpy(batch)))
    onnx_embedding, onnx_features = session.run([EMBEDDING, FEATURES], {INPUT: batch})
    if onnx_embedding.shape != embedding.shape or onnx_features.shape != features.shape:
        raise OnnxInvalid(
            f"a batch of {len(batch)} gives embeddings {onnx_embedding.shape} and features {onnx_features.shape} "
            f"in ONNX Runtime, but {embedding.shape} and {features.shape} in PyTorch"
        )
    difference = float(np.abs(onnx_embedding - embedding).max())
    return difference if np.isfinite(difference) else float("inf")


def _batches(inputs_NCHW: NDArray[np.float32], size: int) -> Iterator[NDArray[np.float32]]:
    """All images in batches of exactly `size`; the last one is filled up from the start."""
    for start in range(0, len(inputs_NCHW), size):
        rows = np.arange(start, start + size) % len(inputs_NCHW)
        yield inputs_NCHW[rows]
