"""From what a request names to arrays that a model takes: fetch, decode, prepare, in threads."""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eif_engine.data.images import ImageLimits, decode_image
from eif_engine.errors import EifError, ImageInvalid
from services.embedding.metrics import EmbeddingMetrics

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Executor

    from eif_engine.data.preprocessing import Preprocessing
    from services.common.storage.base import ObjectStore
    from services.embedding.vectors import Float32


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """One image of a request: its bytes, or where it lies. `field` is its place in the request, `images[3]`."""

    field: str
    content: bytes | None = None
    uri: str | None = None


class ImageLoader:
    """Loads images of requests.

    Args:
        store: Where URIs point.
        limits: Largest file and largest image.
        executor: Threads; each holds one file and one decoded image at a time.
        metrics: Takes the time of each image.
    """

    def __init__(
        self,
        store: ObjectStore,
        limits: ImageLimits,
        executor: Executor,
        metrics: EmbeddingMetrics | None = None,
    ) -> None:
        self._store, self._limits, self._executor = store, limits, executor
        self._metrics = metrics or EmbeddingMetrics()

    async def load(self, sources: Sequence[ImageSource], preprocessing: Preprocessing) -> list[Float32]:
        """Arrays (C, H, W) in the order of the sources. Cancelling it drops what has not begun.

        Raises:
            EifError: Of the first source that fails, naming it: IMAGE_INVALID, OBJECT_NOT_FOUND and the other
                errors of the store.
        """
        loop = asyncio.get_running_loop()
        loading = [
            # In a context of its own, which says what the request to the store is done for.
            loop.run_in_executor(self._executor, copy_context().run, self._load, source, preprocessing)
            for source in sources
        ]
        for one in loading:
            one.add_done_callback(_look_at)
        try:
            return [await one for one in loading]
        finally:
            for one in loading:
                one.cancel()

    def _load(self, source: ImageSource, preprocessing: Preprocessing) -> Float32:
        try:
            data = self._bytes(source)
            with self._metrics.decoding():
                return prepare(data, preprocessing, limits=self._limits, uri=source.uri or "")
        except EifError as error:
            raise at_field(error, source.field) from error.__cause__

    def _bytes(self, source: ImageSource) -> bytes:
        if source.content is not None:
            return source.content
        if source.uri is None:
            raise ValueError(f"{source.field} has neither content nor uri")
        return self._store.read(source.uri, max_bytes=self._limits.max_bytes)


def _look_at(done: asyncio.Future[Float32]) -> None:
    """Take notice of an error that comes after another one was raised; asyncio would log it as forgotten."""
    if not done.cancelled():
        done.exception()


def prepare(data: bytes, preprocessing: Preprocessing, *, limits: ImageLimits, uri: str = "") -> Float32:
    """The (C, H, W) array of an image file: the same code that prepares images for training features."""
    image = decode_image(data, limits=limits, uri=uri)
    try:
        return preprocessing.apply(image)
    except ImageInvalid as error:
        where = {"uri": uri} if uri else {}
        raise ImageInvalid(f"{uri or 'image'}: {error.message}", **where) from error.__cause__


def at_field(error: EifError, field: str) -> EifError:
    """The same error with the field of the request in front of its message and in its metadata."""
    error.message = f"{field}: {error.message}"
    error.args = (error.message,)
    error.metadata["field"] = field
    return error
