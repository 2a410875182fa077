"""Embeds the images of a request: admitted, fetched, decoded, prepared, and run in batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from eif_engine.errors import OnnxInvalid
from services.embedding.vectors import has_direction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eif_engine.config import NeighborSpace
    from services.embedding.admission import Admission
    from services.embedding.images import ImageLoader, ImageSource
    from services.embedding.models import Models
    from services.embedding.vectors import Float32


class Embedder:
    """Images to vectors, by model.

    Args:
        models: That embed.
        loader: That reads and prepares images.
        admission: Of images.
        batch: Images that are run together, at most.
    """

    def __init__(self, models: Models, loader: ImageLoader, admission: Admission, *, batch: int) -> None:
        self._models, self._loader, self._admission, self._batch = models, loader, admission, batch

    async def embed(self, model: str, sources: Sequence[ImageSource], space: NeighborSpace) -> Float32:
        """The (B, D) L2-normalised vectors of the sources, in order.

        Raises:
            EifError: QUEUE_FULL, MODEL_NOT_FOUND, SPACE_NOT_AVAILABLE, or what is wrong with the first image that
                fails, naming it.
        """
        with self._admission.hold(items=len(sources), size=sum(len(source.content or b"") for source in sources)):
            encoder = await self._models.encoder(model)
            encoder.dim(space)  # refuses the space before anything is fetched
            images = await self._loader.load(sources, encoder.bundle.preprocessing)
            parts = [images[start : start + self._batch] for start in range(0, len(images), self._batch)]
            vectors_BD = np.concatenate([await encoder.embed(part, space) for part in parts])
        check_directions(vectors_BD, sources, model)
        return vectors_BD


def check_directions(vectors_BD: Float32, sources: Sequence[ImageSource], model: str) -> None:
    """Refuse images for which the model gave nothing to compare. Raises OnnxInvalid, naming the first."""
    for source, sound in zip(sources, has_direction(vectors_BD), strict=True):
        if not sound:
            raise OnnxInvalid(
                f"{source.field}: {model} gives a vector that is zero or not finite for this image",
                field=source.field,
                model=model,
            )
