"""Which training samples a relabel job looks at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pyarrow.parquet as pq

from eif_engine.errors import SampleUnknown
from eif_engine.types import ALL_QUERIES
from services.common.errors import ServiceError
from services.influence.spec import HarmfulSamples, SampleSelection
from services.influence.worker.job import Job
from services.influence.worker.split import Split

MAX_RANKING_BYTES = 16 << 30
_COLUMNS = ["rank", "sample_id", "score"]


def selected_ids(job: Job, selection: SampleSelection, train: Split) -> list[str] | None:
    """Ids of the samples that get a suggestion, each once; None means all.

    Raises:
        EifError: SAMPLE_UNKNOWN for an id that the manifest does not have, QUERY_NOT_FOUND, and those of the store.
    """
    if selection.harmful is not None:
        wanted = list(_harmful(job, selection.harmful))
        source = f"the ranking of {selection.harmful.job}"
    elif selection.sample_ids:
        wanted, source = list(dict.fromkeys(selection.sample_ids)), "samples.sample_ids"
    else:
        return None
    known = set(train.sample_ids)
    for sample_id in wanted:
        if sample_id not in known:
            raise SampleUnknown(
                f"sample {sample_id!r} of {source} is not in the manifest {train.uri}",
                sample_id=sample_id,
                uri=train.uri,
            )
    return wanted


def rows_of(sample_ids: Sequence[str], wanted: Sequence[str] | None) -> list[int]:
    """Rows of the wanted ids among those that could be read; None means all."""
    if wanted is None:
        return list(range(len(sample_ids)))
    row_of = {sample_id: row for row, sample_id in enumerate(sample_ids)}
    return [row_of[sample_id] for sample_id in wanted if sample_id in row_of]


def _harmful(job: Job, harmful: HarmfulSamples) -> Iterable[str]:
    """The head of the ranking, as far as it goes without a gap: a query keeps only both ends of its own."""
    ranking = job.request.referred
    if ranking is None:
        raise ServiceError(
            "ARGUMENT_INVALID", f"samples.harmful.job {harmful.job} has no ranking", field="samples.harmful"
        )
    path = job.scratch / "harmful.parquet"
    job.store.download(ranking.uri, path, max_bytes=MAX_RANKING_BYTES, sha256=ranking.sha256)
    query_id = harmful.query_id or ALL_QUERIES
    rows = pq.read_table(path, columns=_COLUMNS, filters=[("query_id", "==", query_id)]).sort_by("rank")
    if not rows.num_rows and query_id != ALL_QUERIES:
        raise ServiceError("QUERY_NOT_FOUND", f"{harmful.job} has no query {query_id!r}", query_id=query_id)
    ranked = zip(*(rows.column(name).to_pylist() for name in _COLUMNS), strict=True)
    for expected, (rank, sample_id, score) in enumerate(ranked, start=1):
        if rank != expected or (expected > harmful.count if harmful.count else score <= 0):
            return
        yield sample_id
