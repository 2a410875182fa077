"""Pictures of why some confusions of an audit look alike: the closest pair of each of the largest confusion classes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field

from eif_engine.audit_types import Audit
from eif_engine.errors import FeatureMapMissing
from eif_engine.jobs.explain import Explainer
from eif_engine.jobs.picture import Subject, draw_explanation
from eif_engine.types import Quarantined
from services.influence.worker.inputs import JobModel
from services.influence.worker.job import Job
from services.influence.worker.pair_images import stream_pairs
from services.influence.worker.split import Split

MAX_PAIRS = 12
MAX_BYTES = 4 << 20
"""Of all pictures: the report has its own limit, and thumbnails need room too."""

Key = tuple[str, str]
"""Sample id and neighbour id."""


@dataclass
class ExplainedConfusions:
    """Pictures (PNG) by pair, and why there are none where there are none."""

    pictures: dict[Key, bytes] = field(default_factory=dict)
    missing: str = ""


def explain_confusions(job: Job, model: JobModel | None, test: Split, audit: Audit) -> ExplainedConfusions:
    """Explain some of the confusions; pairs whose images cannot be read any more are left out. Raises Cancelled."""
    if model is None:
        return ExplainedConfusions(missing="Pictures of why pairs look alike need a model.")
    try:
        explainer = Explainer(model.loaded, name=model.bundle.architecture.name)
    except FeatureMapMissing as error:
        return ExplainedConfusions(missing=f"There are no pictures of why pairs look alike: {error.message}")
    found = ExplainedConfusions()
    row_of = {sample_id: row for row, sample_id in enumerate(test.sample_ids)}
    rows = [(row_of[first], row_of[second]) for first, second in _closest(audit)]
    preprocessing, left = model.loaded.preprocessing, MAX_BYTES
    with closing(stream_pairs(job, test, rows, preprocessing)) as stream:
        for first, second in stream:
            job.cancellation.check()
            if isinstance(first, Quarantined) or isinstance(second, Quarantined):
                continue
            explanation = explainer.pair(explainer.parts(first.pixels_CHW), explainer.parts(second.pixels_CHW))
            one, other = (Subject(each.image, each.sample.sample_id, each.sample.label) for each in (first, second))
            picture = draw_explanation(explanation, one, other, preprocessing)
            if len(picture) > left:
                break
            left -= len(picture)
            found.pictures[first.sample.sample_id, second.sample.sample_id] = picture
    return found


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
