"""Calls that read what a job has found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from eif.influence.v1 import influence_service_pb2

from services.client.influence_calls import InfluenceCalls
from services.client.job_files import open_job_file, parquet_table, require_tables, save
from services.client.jobs import Job
from services.client.ranked_stream import RankedStream, open_ranked_stream
from services.client.row_converters import row_of
from services.client.rows import QuarantinedSample, QueryPair, RankedSample, RelabelSuggestion, Row
from services.client.spec_converters import ORDERS, TABLES
from services.client.specs import RankOrder, Table
from services.client.streams import Stream

if TYPE_CHECKING:
    import pyarrow as pa


class ResultCalls(InfluenceCalls):
    """Reads rows, rankings, files and tables of jobs that succeeded."""

    @overload
    def results(
        self, job: Job | str, table: Literal[Table.RANKING], *, query_id: str = ..., page_size: int = ...
    ) -> Iterator[RankedSample]: ...
    @overload
    def results(
        self, job: Job | str, table: Literal[Table.RELABEL], *, query_id: str = ..., page_size: int = ...
    ) -> Iterator[RelabelSuggestion]: ...
    @overload
    def results(
        self, job: Job | str, table: Literal[Table.PAIRS], *, query_id: str = ..., page_size: int = ...
    ) -> Iterator[QueryPair]: ...
    @overload
    def results(
        self, job: Job | str, table: Literal[Table.QUARANTINE], *, query_id: str = ..., page_size: int = ...
    ) -> Iterator[QuarantinedSample]: ...
    @overload
    def results(self, job: Job | str, table: Table, *, query_id: str = ..., page_size: int = ...) -> Iterator[Row]: ...
    def results(self, job: Job | str, table: Table, *, query_id: str = "", page_size: int = 0) -> Iterator[Row]:
        """Rows of a table of a succeeded job, in its order; pages are fetched as needed.

        Args:
            job: The job.
            table: The table.
            query_id: Of `ranking` and `pairs` only the rows of this query. Empty: `all` for `ranking`, every one for
                `pairs`.
            page_size: Rows fetched at once; 0 is the server's default.
        """
        request = influence_service_pb2.ListJobResultsRequest(
            name=self._name(job), table=TABLES[table], query_id=query_id, page_size=page_size
        )
        while True:
            page = self._connection.call(self._stub.ListJobResults, request)
            yield from filter(None, map(row_of, page.rows))
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def stream_ranked_samples(
        self,
        job: Job | str,
        *,
        query_id: str = "",
        order: RankOrder = RankOrder.HARMFUL,
        max_rows: int = 0,
        chunk_rows: int = 0,
        resume_token: str = "",
    ) -> RankedStream:
        """Stream a ranking of a succeeded job in its total order; resumes where a connection was lost.

        Checksums, ranks and the number of rows are checked: StreamCorrupt says that they do not fit.

        Args:
            job: The job.
            query_id: The query of a rank job; empty is the ranking over all.
            order: From which end.
            max_rows: Stop after so many rows; 0 means all.
            chunk_rows: Rows that the server sends at once; 0 is its default.
            resume_token: Go on after the chunk that carried it; the other arguments must be as they were.
        """
        request = influence_service_pb2.StreamRankedSamplesRequest(
            name=self._name(job),
            query_id=query_id,
            order=ORDERS[order],
            max_rows=max_rows,
            chunk_rows=chunk_rows,
            resume_token=resume_token,
        )
        return open_ranked_stream(
            lambda attempt, timeout: self._stub.StreamRankedSamples(attempt, timeout=timeout),
            request,
            connection=self._connection,
            reconnect=self._reconnect,
        )

    def read_file(self, job: Job | str, file: str) -> Stream[bytes]:
        """Stream a file of a succeeded job: `report.html`, `<table>.parquet`, or another among `output.files`.

        Resumes where a connection was lost; checksums are checked, StreamCorrupt says that they do not fit.
        """
        request = influence_service_pb2.ReadJobFileRequest(name=self._name(job), file=file)
        return open_job_file(
            lambda attempt, timeout: self._stub.ReadJobFile(attempt, timeout=timeout),
            request,
            connection=self._connection,
            reconnect=self._reconnect,
        )

    def save_file(self, job: Job | str, file: str, path: Path) -> None:
        """Save a file of a succeeded job (`read_file`); what is at `path` is complete or as it was."""
        save(self.read_file(job, file), path)

    def read_table(self, job: Job | str, table: str) -> pa.Table:
        """A whole table of a succeeded job as Arrow; `.to_pandas()` makes a data frame. Needs eif-service[tables].

        Raises:
            ImportError: pyarrow is not installed.
        """
        require_tables()
        return parquet_table(b"".join(self.read_file(job, f"{table}.parquet")))
