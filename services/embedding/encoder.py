"""A loaded model: batches of prepared images in, unit vectors out.

Legend: B batch, C channels, H height, W width, D dimensions of the space.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from eif_engine.config import NeighborSpace
from eif_engine.errors import MemoryExceeded, OnnxInvalid
from eif_engine.models.onnx_bundle import OnnxBundle, read_onnx_bundle
from services.common.errors import ServiceError
from services.embedding.metrics import EmbeddingMetrics
from services.embedding.session import one_line, open_session, provider_of
from services.embedding.vectors import normalize

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import onnxruntime as ort

    from services.embedding.vectors import Float32


class Encoder:
    """Runs one batch at a time, in a thread of its own; batches wait in the order they came.

    Args:
        session: Of the model of the bundle.
        bundle: Its onnx.json.
        name: Of the model, for messages.
        metrics: Takes the times of its batches.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        bundle: OnnxBundle,
        *,
        name: str,
        metrics: EmbeddingMetrics | None = None,
    ) -> None:
        self._session = session
        self._metrics = metrics or EmbeddingMetrics()
        self._name = name
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="encoder")
        self.bundle = bundle
        self.provider = provider_of(session)

    @classmethod
    def load(
        cls, folder: Path, *, name: str, provider: str, threads: int, metrics: EmbeddingMetrics | None = None
    ) -> Encoder:
        """Load a bundle that is known to be sound (see onnx_check).

        Raises:
            OnnxInvalid: ONNX Runtime cannot load it here.
        """
        bundle = read_onnx_bundle(folder)
        try:
            session = open_session(folder / bundle.onnx.file, provider=provider, threads=threads)
        except Exception as error:
            raise OnnxInvalid(f"{name} cannot be loaded: {one_line(error, folder=folder)}", model=name) from error
        return cls(session, bundle, name=name, metrics=metrics)

    def dim(self, space: NeighborSpace) -> int:
        """D of a space. Raises SPACE_NOT_AVAILABLE."""
        self._output(space)
        return self.bundle.embedding_dim if space is NeighborSpace.EMBEDDING else self.bundle.feature_dim

    async def embed(self, images: Sequence[Float32], space: NeighborSpace) -> Float32:
        """As `submit`, awaited. Cancelling it takes the batch out of the queue, unless it has begun."""
        waiting = self.submit(images, space)
        try:
            return await asyncio.wrap_future(waiting)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise self._deleted() from None  # not the caller was cancelled, but the queue was dropped

    def submit(self, images: Sequence[Float32], space: NeighborSpace) -> Future[Float32]:
        """Queue one batch.

        Args:
            images: B arrays (C, H, W), at least one.
            space: The space of the vectors.

        Returns:
            The (B, D) L2-normalised vectors; a row is NaN where the model gave no direction.

        Raises:
            ServiceError: SPACE_NOT_AVAILABLE; MODEL_NOT_FOUND when it was closed.
        """
        output = self._output(space)
        try:
            return self._executor.submit(self._run, images, output, time.perf_counter())
        except RuntimeError as error:  # closed
            raise self._deleted() from error

    def close(self) -> None:
        """Drop what waits, let the batch that runs end, take no more."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _run(self, images: Sequence[Float32], output: str, queued: float) -> Float32:
        started = time.perf_counter()
        try:
            return self._compute(images, output)
        finally:
            self._metrics.batch(len(images), waited=started - queued, ran=time.perf_counter() - started)

    def _compute(self, images: Sequence[Float32], output: str) -> Float32:
        images_BCHW = np.stack(images)
        try:
            (vectors_BD,) = self._session.run([output], {self.bundle.input.name: images_BCHW})
        except Exception as error:
            raise self._failed(error, len(images)) from error
        if vectors_BD.shape[0] != len(images) or vectors_BD.ndim != 2:
            raise OnnxInvalid(
                f"{self._name} gave the shape {list(vectors_BD.shape)} for {len(images)} images", model=self._name
            )
        return normalize(vectors_BD)

    def _deleted(self) -> ServiceError:
        return ServiceError("MODEL_NOT_FOUND", f"{self._name} was deleted", model=self._name)

    def _failed(self, error: Exception, images: int) -> MemoryExceeded | OnnxInvalid:
        text = one_line(error)
        if any(mark in text.lower() for mark in ("bad_alloc", "out of memory", "failed to allocate")):
            return MemoryExceeded(f"{self._name}: a batch of {images} images does not fit in memory: {text}")
        return OnnxInvalid(f"{self._name} failed on a batch of {images} images: {text}", model=self._name)

    def _output(self, space: NeighborSpace) -> str:
        if space is NeighborSpace.EMBEDDING:
            return self.bundle.outputs.embedding
        if self.bundle.outputs.features is None:
            raise space_not_available(self._name, space)
        return self.bundle.outputs.features


def space_not_available(model: str, space: NeighborSpace) -> ServiceError:
    """SPACE_NOT_AVAILABLE for a model without features."""
    return ServiceError(
        "SPACE_NOT_AVAILABLE",
        f"{model} has no output for the features before its last layer: use SPACE_EMBEDDING, or export the model "
        "with its features",
        model=model,
        space=space.value,
    )
