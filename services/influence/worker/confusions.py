"""The stage `confusions`: what a rank job is to explain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eif_engine.config import QueryKind
from eif_engine.errors import SampleUnknown
from eif_engine.jobs.queries import find_queries, named_pairs
from eif_engine.types import Query
from services.influence.spec import QuerySelection, RankSpec, SamplePair
from services.influence.worker.embeddings import embed
from services.influence.worker.features import SplitFeatures
from services.influence.worker.inputs import JobModel
from services.influence.worker.job import Job
from services.influence.worker.quarantine import Quarantine

STAGE = "confusions"


@dataclass(frozen=True, kw_only=True)
class Confusions:
    """The queries of a job.

    Attributes:
        kind: What they are made of.
        queries: The first `max_queries` of them.
        pairs_found: Pairs of all queries, also of those that `max_queries` cut off.
    """

    kind: QueryKind
    queries: list[Query]
    pairs_found: int

    def as_figures(self) -> dict[str, float]:
        """By the names of MANIFEST.json."""
        found = "mis_similar_pairs" if self.kind is QueryKind.MIS_SIMILAR_PAIRS else "confusion_pairs"
        return {"queries": len(self.queries), found: self.pairs_found}


def run_confusions(
    job: Job, spec: RankSpec, model: JobModel, test: SplitFeatures, quarantine: Quarantine
) -> Confusions:
    """Find the queries.

    Raises:
        EifError: LABEL_UNKNOWN for a class that no test sample has, SAMPLE_UNKNOWN for a pair of unknown samples.
    """
    with job.progress.stage(STAGE, unit="samples", total=len(test.rows)) as report:
        head = model.loaded.head.to(device=model.device, dtype=torch.float64)
        embeddings_MD = embed(head, test.x_NF, check=job.cancellation.check)
        found = _found(spec.queries, test, embeddings_MD, quarantine)
        report(len(test.rows), len(test.rows))
    pairs = sum(len(query.pairs) for query in found)
    return Confusions(kind=spec.queries.kind, queries=found[: spec.queries.max_queries], pairs_found=pairs)


def _found(
    selection: QuerySelection, test: SplitFeatures, embeddings_MD: Tensor, quarantine: Quarantine
) -> list[Query]:
    if not selection.pairs:
        return find_queries(
            embeddings_MD=embeddings_MD,
            labels=test.labels,
            sample_ids=test.sample_ids,
            kind=selection.kind,
            classes=selection.classes,
        )
    _refuse_unreadable(selection.pairs, quarantine)
    asked = dict.fromkeys((pair.sample_id, pair.neighbor_id) for pair in selection.pairs)
    return named_pairs(pairs=list(asked), embeddings_MD=embeddings_MD, sample_ids=test.sample_ids, kind=selection.kind)


def _refuse_unreadable(pairs: Sequence[SamplePair], quarantine: Quarantine) -> None:
    unreadable = {entry.sample_id: entry for split, entry in quarantine.entries() if split == "test"}
    for sample_id in (sample_id for pair in pairs for sample_id in (pair.sample_id, pair.neighbor_id)):
        if sample_id in unreadable:
            entry = unreadable[sample_id]
            raise SampleUnknown(
                f"test sample {sample_id!r} of the pairs asked for could not be read ({entry.reason}: {entry.message})",
                sample_id=sample_id,
            )
