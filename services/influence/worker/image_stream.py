"""Images of a split on their way to the network: read ahead and decoded by threads while the network computes."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eif_engine.data.images import decode_image
from eif_engine.data.preprocessing import Preprocessing
from eif_engine.errors import ImageInvalid
from eif_engine.types import Quarantined, Sample
from services.common.samples import read_samples
from services.influence.worker.job import Job

_AHEAD = 4
"""Images decoded ahead of the network, a thread."""


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
    settings = job.settings

    def in_order() -> Iterator[Sample]:
        for row, sample in samples:
            order.append(row)
            yield sample

    def prepare(row: int, sample: Sample, data: bytes) -> Image | Quarantined:
        digest = np.frombuffer(hashlib.sha256(data).digest(), dtype=np.uint8)
        if known(digest[None])[0]:
            return Image(row=row, digest=digest, pixels_CHW=None)
        try:
            pixels_CHW = preprocessing.apply(decode_image(data, uri=sample.uri))
        except ImageInvalid as error:
            return Quarantined(sample_id=sample.sample_id, uri=sample.uri, reason=error.reason, message=error.message)
        return Image(row=row, digest=digest, pixels_CHW=pixels_CHW)

    reads = read_samples(job.store, in_order(), workers=settings.read_threads, scratch=job.scratch)
    with (
        closing(reads) as found,
        ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="decode") as pool,
    ):
        window: deque[Future[Image | Quarantined] | Quarantined] = deque()
        try:
            for sample, data in found:
                row = order.popleft()
                window.append(data if isinstance(data, Quarantined) else pool.submit(prepare, row, sample, data))
                if len(window) > _AHEAD * settings.decode_threads:
                    yield _outcome(window.popleft())
            while window:
                yield _outcome(window.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _outcome(entry: Future[Image | Quarantined] | Quarantined) -> Image | Quarantined:
    return entry if isinstance(entry, Quarantined) else entry.result()
