"""What can be asked of the results of a job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from eif_engine.types import ALL_QUERIES
from services.common.errors import ServiceError
from services.influence.job import Job, JobOutput, JobState
from services.influence.names import invalid, shown
from services.influence.spec import Artifact, RelabelSpec
from services.influence.table_cache import TableCache, table_entry

if TYPE_CHECKING:  # pyarrow is imported with the first table that is asked for
    import pyarrow as pa

    from services.influence.stored_table import Span, StoredTable

_WITH_QUERIES = {"ranking", "pairs"}
_HOW_TO_FIND = "ListJobResults with table RESULT_TABLE_PAIRS lists the queries of a job"


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The rows of one ranking.

    Attributes:
        query_id: `all`, or the query; empty for relabel jobs.
        table: Where they are.
        span: Which they are, most harmful or most doubtful first.
    """

    query_id: str
    table: StoredTable
    span: Span


@dataclass(frozen=True, kw_only=True)
class RowPage:
    """Rows of a table, and how many the whole answer has."""

    name: str
    rows: pa.Table
    total: int


class Results:
    """Reads the tables of jobs that succeeded. Synchronous and thread-safe."""

    def __init__(self, cache: TableCache) -> None:
        self._cache = cache

    def ranking(self, job: Job, query_id: str) -> Ranking:
        """The ranking of a query of a rank job, or of a relabel job.

        Raises:
            ServiceError: JOB_NOT_SUCCEEDED, QUERY_NOT_FOUND, ARGUMENT_INVALID when a relabel job is asked for a query,
                and those of TableCache.open.
        """
        require_success(job)
        if isinstance(job.spec, RelabelSpec):
            if query_id:
                raise invalid("query_id", "a relabel job has one ranking and no queries: leave it empty")
            table = self._cache.open(job, "relabel")
            return Ranking(query_id="", table=table, span=table.all_rows)
        query_id = query_id or ALL_QUERIES
        table = self._cache.open(job, "ranking")
        return Ranking(query_id=query_id, table=table, span=_span(job, table, query_id))

    def page(self, job: Job, name: str, query_id: str, *, offset: int, count: int) -> RowPage:
        """Rows of a table from `offset` on. Raises as `ranking`."""
        require_success(job)
        if query_id and name not in _WITH_QUERIES:
            raise invalid("query_id", f"the rows of {name} belong to no query: leave it empty")
        table = self._cache.open(job, name)
        if name == "ranking":
            query_id = query_id or ALL_QUERIES
        span = _span(job, table, query_id) if query_id else table.all_rows
        count = max(0, min(count, span.count - offset))
        return RowPage(name=name, rows=table.read(span.start + offset, count), total=span.count)

    def forget(self, job: Job) -> None:
        """Remove what this machine keeps of a job's results."""
        self._cache.forget(job)


def require_success(job: Job) -> JobOutput:
    """The results of a job. Raises JOB_NOT_SUCCEEDED."""
    if job.state is not JobState.SUCCEEDED or job.output is None:
        why = f" ({job.error.reason}: {job.error.message})" if job.error else ""
        what = "there are no results" if job.state.ended else "wait until it has succeeded: WatchInfluenceJob"
        raise ServiceError(
            "JOB_NOT_SUCCEEDED", f"{job.name} is {job.state}{why}; {what}", name=job.name, state=job.state.name
        )
    return job.output


def ranking_of(job: Job) -> Artifact:
    """Where the ranking table of a rank job is. Raises JOB_NOT_SUCCEEDED, TABLE_NOT_FOUND."""
    require_success(job)
    entry = table_entry(job, "ranking")
    return Artifact(uri=f"{job.folder_uri}/{entry.file}", sha256=entry.sha256)


def manifest_of(job: Job) -> Artifact:
    """Where the MANIFEST.json of a job is. Raises JOB_NOT_SUCCEEDED."""
    return Artifact(uri=job.manifest_uri, sha256=require_success(job).manifest_sha256)


def _span(job: Job, table: StoredTable, query_id: str) -> Span:
    span = table.spans.get(query_id)
    if span is not None:
        return span
    if query_id == ALL_QUERIES and table.name == "ranking":  # nothing was confused, so nothing was ranked
        return type(table.all_rows)(start=0, count=0)
    raise ServiceError(
        "QUERY_NOT_FOUND",
        f"query_id: {job.name} has no query {shown(query_id)}; {_HOW_TO_FIND}",
        name=job.name,
        query_id=query_id,
    )
