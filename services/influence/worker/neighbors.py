"""The stage `neighbors`: votes of the neighbours, found in a space of the model or in an index."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eif_engine.config import NeighborSpace, RelabelConfig
from eif_engine.functional.relabel import median_shots
from eif_engine.jobs.relabel import Suggestion, suggest
from services.common.errors import ServiceError
from services.influence.spec import RelabelSpec
from services.influence.worker.embeddings import embed
from services.influence.worker.features import SplitFeatures
from services.influence.worker.index_neighbors import IndexNeighbors
from services.influence.worker.index_votes import index_votes
from services.influence.worker.inputs import JobModel
from services.influence.worker.job import Job
from services.influence.worker.quarantine import Quarantine
from services.influence.worker.selection import rows_of
from services.influence.worker.split import Split

STAGE = "neighbors"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Suggestions in their order, and the figures of how they came about."""

    suggestions: list[Suggestion]
    figures: dict[str, float] = field(default_factory=dict)


def from_model(job: Job, spec: RelabelSpec, model: JobModel, train: SplitFeatures, wanted: list[str] | None) -> Outcome:
    """Votes of the nearest in a space of the model, exactly."""
    rows = rows_of(train.sample_ids, wanted)
    count = spec.num_neighbors or median_shots(train.labels)
    with job.progress.stage(STAGE, unit="samples", total=len(rows)) as report:
        suggestions = suggest(
            vectors_NF=_vectors(job, spec.space, model, train.x_NF),
            labels=train.labels,
            sample_ids=train.sample_ids,
            rows=rows,
            config=RelabelConfig(num_neighbors=count, vote=spec.vote),
            progress=report,
        )
    return Outcome(suggestions=suggestions, figures={"num_neighbors": min(count, len(train.rows) - 1)})


def from_index(job: Job, spec: RelabelSpec, train: Split, wanted: list[str] | None, quarantine: Quarantine) -> Outcome:
    """Votes of the nearest in an index of the embedding service.

    Raises:
        ServiceError: EMBEDDING_UNAVAILABLE, INDEX_NOT_FOUND, INDEX_NOT_READY and others of the embedding service.
    """
    target, settings = job.settings.embedding_target, job.settings
    if spec.knn_index is None or not target:
        raise ServiceError(
            "EMBEDDING_UNAVAILABLE",
            "this server knows no embedding service, which relabel.knn_index needs: set "
            "EIF_INFLUENCE_EMBEDDING_TARGET, or give relabel.model and relabel.space instead",
        )
    samples = train.sample_ids if wanted is None else wanted
    with (
        job.progress.stage(STAGE, unit="samples", total=len(samples)) as report,
        IndexNeighbors(
            target,
            spec.knn_index,
            timeout_s=settings.embedding_timeout_s,
            patience_s=settings.embedding_patience_s,
            check=job.cancellation.check,
            credentials=settings.embedding_credentials,
        ) as index,
    ):
        found = index_votes(
            index,
            train,
            samples,
            num_neighbors=spec.num_neighbors,
            rule=spec.vote,
            quarantine=quarantine,
            report=report,
        )
    figures = {"num_neighbors": found.num_neighbors, "neighbors_ignored": found.ignored}
    return Outcome(suggestions=found.suggestions, figures=dict(figures))


def _vectors(job: Job, space: NeighborSpace, model: JobModel, x_NF: NDArray[np.float32]) -> Tensor:
    """In float64, so that equal vectors are equally far whatever ran beside them."""
    if space is NeighborSpace.PENULTIMATE:
        return torch.from_numpy(x_NF).to(model.device, torch.float64)
    head = model.loaded.head.to(device=model.device, dtype=torch.float64)
    return embed(head, x_NF, check=job.cancellation.check)
