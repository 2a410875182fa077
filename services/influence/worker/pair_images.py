"""The images of pairs, pair after pair: read ahead by threads, decoded one pair at a time."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass

from PIL import Image

from eif_engine.data.images import decode_image
from eif_engine.data.preprocessing import Preprocessing
from eif_engine.errors import ImageInvalid
from eif_engine.jobs.explain import Pixels
from eif_engine.types import Quarantined, Sample
from services.influence.worker.job import Job
from services.influence.worker.split import Split


@dataclass(frozen=True, kw_only=True)
class PairImage:
    """One image of a pair.

    Attributes:
        sample: Whose image it is.
        image: Decoded.
        pixels_CHW: What the network gets.
    """

    sample: Sample
    image: Image.Image
    pixels_CHW: Pixels


Outcome = PairImage | Quarantined


def stream_pairs(
    job: Job, split: Split, pairs: Sequence[tuple[int, int]], preprocessing: Preprocessing
) -> Generator[tuple[Outcome, Outcome], None, None]:
    """Both images of each pair of rows, or why one could not be read."""
    samples = (split.sample(row) for pair in pairs for row in pair)
    with closing(job.images.read(samples)) as found:
        for sample, data in found:
            first = _outcome(sample, data, preprocessing)
            second = _outcome(*next(found), preprocessing)
            yield first, second


def _outcome(sample: Sample, data: bytes | Quarantined, preprocessing: Preprocessing) -> Outcome:
    if isinstance(data, Quarantined):
        return data
    try:
        image = decode_image(data, uri=sample.uri)
        return PairImage(sample=sample, image=image, pixels_CHW=preprocessing.apply(image))
    except ImageInvalid as error:
        return Quarantined(sample_id=sample.sample_id, uri=sample.uri, reason=error.reason, message=error.message)
