"""Images of a split on their way to the network: read ahead and decoded by threads while the network computes."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from eif_engine.data.images import decode_image
from eif_engine.data.preprocessing import Preprocessing
from eif_engine.errors import ImageInvalid
from eif_engine.types import Quarantined, Sample
from services.influence.worker.job import Job

_CHUNK_IMAGES = 16
_CHUNK_BYTES = 2 << 20
"""Of image files, and of what the network sees of them, that a thread takes at a time: small images cost more to hand
from thread to thread than to decode."""

Read = tuple[Sample, bytes | Quarantined]


@dataclass(frozen=True, kw_only=True)
class Image:
    """What became of the image of a row.

    Attributes:
        row: Of the split.
        digest: Sha256 of the file, (32,).
        pixels_CHW: Preprocessed, unless its features are known.
    """

    row: int
    digest: NDArray[np.uint8]
    pixels_CHW: NDArray[np.float32] | None


def stream_images(
    job: Job,
    samples: Iterable[tuple[int, Sample]],
    *,
    preprocessing: Preprocessing,
    known: Callable[[NDArray[np.uint8]], NDArray[np.bool_]],
) -> Generator[Image | Quarantined, None, None]:
    """Read, look up and decode the images of samples, in their order; ends its threads when it is closed.

    Args:
        job: The job.
        samples: Each with its row.
        preprocessing: What the network expects.
        known: Which images, by sha256 (n, 32), have features already: these are not decoded.
    """
    order: deque[int] = deque()
    threads = job.settings.decode_threads

    def in_order() -> Iterator[Sample]:
        for row, sample in samples:
            order.append(row)
            yield sample

    def prepare(rows: list[int], chunk: list[Read]) -> list[Image | Quarantined]:
        return [_prepared(row, read, preprocessing, known) for row, read in zip(rows, chunk, strict=True)]

    with (
        closing(job.images.read(in_order())) as found,
        ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool,
    ):
        window: deque[Future[list[Image | Quarantined]]] = deque()
        try:
            for chunk in _chunks(found, pixel_bytes=4 * prod(preprocessing.output_shape)):
                window.append(pool.submit(prepare, [order.popleft() for _ in chunk], chunk))
                if len(window) > threads + 1:
                    yield from window.popleft().result()
            while window:
                yield from window.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _prepared(
    row: int, read: Read, preprocessing: Preprocessing, known: Callable[[NDArray[np.uint8]], NDArray[np.bool_]]
) -> Image | Quarantined:
    sample, data = read
    if isinstance(data, Quarantined):
        return data
    digest = np.frombuffer(hashlib.sha256(data).digest(), dtype=np.uint8)
    if known(digest[None])[0]:
        return Image(row=row, digest=digest, pixels_CHW=None)
    try:
        pixels_CHW = preprocessing.apply(decode_image(data, uri=sample.uri))
    except ImageInvalid as error:
        return Quarantined(sample_id=sample.sample_id, uri=sample.uri, reason=error.reason, message=error.message)
    return Image(row=row, digest=digest, pixels_CHW=pixels_CHW)


def _chunks(reads: Iterable[Read], *, pixel_bytes: int) -> Iterator[list[Read]]:
    """A few images at a time, one where they are large."""
    most, chunk, size = min(_CHUNK_IMAGES, _CHUNK_BYTES // pixel_bytes), list[Read](), 0
    for read in reads:
        chunk.append(read)
        size += len(read[1]) if isinstance(read[1], bytes) else 0
        if len(chunk) >= most or size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
