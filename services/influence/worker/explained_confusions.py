"""Pictures of why some confusions of an audit look alike: the closest pair of each of the largest confusion classes."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field

from eif_engine import __version__
from eif_engine.audit_types import Audit
from eif_engine.errors import FeatureMapMissing
from eif_engine.jobs.explain import Explainer
from eif_engine.jobs.picture import Subject, draw_explanation
from eif_engine.matching_config import MatchingConfig
from eif_engine.models.parts import ImageParts
from eif_engine.types import Quarantined
from services.influence.worker.features import SplitFeatures
from services.influence.worker.inputs import JobModel
from services.influence.worker.job import Job
from services.influence.worker.kept import Kept, key_of
from services.influence.worker.pair_images import PairImage, stream_pairs
from services.influence.worker.split import Split

MAX_PAIRS = 12
MAX_BYTES = 4 << 20
"""Of all pictures: the report has its own limit, and thumbnails need room too."""

_AT_A_TIME = 2
"""Pictures that are drawn at a time."""
_TOLERANCE = 1e-6
"""Of the matching: what a picture shows has three digits."""

Key = tuple[str, str]
"""Sample id and neighbour id."""


@dataclass
class ExplainedConfusions:
    """Pictures (PNG) by pair, and why there are none where there are none."""

    pictures: dict[Key, bytes] = field(default_factory=dict)
    missing: str = ""


def explain_confusions(
    job: Job, model: JobModel | None, test: Split, features: SplitFeatures, audit: Audit
) -> ExplainedConfusions:
    """Explain some of the confusions; pairs whose images cannot be read any more are left out.

    Pictures of the same two images by the same model are taken from an earlier audit. Raises Cancelled.
    """
    if model is None:
        return ExplainedConfusions(missing="Pictures of why pairs look alike need a model.")
    try:
        config = MatchingConfig(tolerance=_TOLERANCE)
        explainer = Explainer(model.loaded, config, name=model.bundle.architecture.name)
    except FeatureMapMissing as error:
        return ExplainedConfusions(missing=f"There are no pictures of why pairs look alike: {error.message}")
    found, pairs = ExplainedConfusions(), list(_closest(audit))
    kept, keys = Kept(job.store, f"{job.cache_uri}/explanations"), _Keys(model, features)
    known = {pair: picture for pair in pairs if (key := keys.of(pair)) and (picture := kept.get(key))}
    left = MAX_BYTES
    with closing(_drawn(job, model, explainer, test, [pair for pair in pairs if pair not in known])) as drawn:
        for pair in pairs:
            job.cancellation.check()
            picture = known.get(pair) or next(drawn)
            if picture is not None and len(picture) > left:
                break
            if picture is not None:
                left -= len(picture)
                found.pictures[pair] = picture
                if pair not in known and (key := keys.of(pair)):
                    kept.put(key, picture)
    return found


def _drawn(
    job: Job, model: JobModel, explainer: Explainer, test: Split, pairs: Sequence[Key]
) -> Generator[bytes | None, None, None]:
    """A picture of each pair; None where an image cannot be read."""
    row_of = {sample_id: row for row, sample_id in enumerate(test.sample_ids)}
    rows, preprocessing = [(row_of[first], row_of[second]) for first, second in pairs], model.loaded.preprocessing

    def draw(first: PairImage, second: PairImage, parts: tuple[ImageParts, ImageParts]) -> bytes:
        one, other = (Subject(each.image, each.sample.sample_id, each.sample.label) for each in (first, second))
        return draw_explanation(explainer.pair(*parts), one, other, preprocessing)

    drawing: deque[Future[bytes] | None] = deque()
    with (
        closing(stream_pairs(job, test, rows, preprocessing)) as stream,
        ThreadPoolExecutor(_AT_A_TIME, thread_name_prefix="pictures") as pool,
    ):
        for first, second in stream:
            if isinstance(first, Quarantined) or isinstance(second, Quarantined):
                drawing.append(None)
            else:  # the network runs in this thread alone
                parts = explainer.parts(first.pixels_CHW), explainer.parts(second.pixels_CHW)
                drawing.append(pool.submit(draw, first, second, parts))
            if len(drawing) > _AT_A_TIME:
                yield _result(drawing.popleft())
        yield from map(_result, drawing)


def _result(drawing: Future[bytes] | None) -> bytes | None:
    return None if drawing is None else drawing.result()


class _Keys:
    """Under which pictures are kept: all that is drawn, and all that decides it."""

    def __init__(self, model: JobModel, features: SplitFeatures) -> None:
        self._model = f"{__version__} {model.device.type} {model.bundle.model_dump_json()}"
        self._features = features
        self._place = {sample_id: place for place, sample_id in enumerate(features.sample_ids)}

    def of(self, pair: Key) -> str | None:
        """None where the digest of an image is not known."""
        places = [self._place[sample_id] for sample_id in pair]
        digests = [self._features.digest_NB[place].tobytes() for place in places]
        if not all(any(digest) for digest in digests):
            return None
        labels = [self._features.labels[place] for place in places]
        return key_of(self._model, *pair, *labels, *digests)


def _closest(audit: Audit) -> Iterator[Key]:
    """The closest pair of each class; the largest classes first."""
    seen: set[frozenset[str]] = set()
    for columns in audit.pairs.values():
        distances = [float(distance) for distance in columns["distance"]]
        place = min(range(len(distances)), key=distances.__getitem__)
        key = (str(columns["sample_id"][place]), str(columns["neighbor_id"][place]))
        if frozenset(key) not in seen:
            seen.add(frozenset(key))
            yield key
        if len(seen) == MAX_PAIRS:
            return
