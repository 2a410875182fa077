"""The client of the influence service.

with InfluenceClient("127.0.0.1:50051") as client:
    job = client.rank(model="s3://b/model", train="s3://b/train.parquet", test="s3://b/test.parquet")
    client.wait(job)
    for sample in client.stream_ranked_samples(job, max_rows=100):
        print(sample.rank, sample.sample_id, sample.score)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self, overload

from eif.influence.v1 import influence_service_pb2, influence_service_pb2_grpc, job_pb2

from services.client import names
from services.client.connection import Connection
from services.client.credentials import Credentials
from services.client.gate import AuditDifferences, AuditVerdict, Change, FindingChange
from services.client.gate_converters import CHANGE_VALUES, change_of, count_of, verdict_of
from services.client.job_converters import STATE_VALUES, job_of, raise_unless_succeeded, server_info_of
from services.client.job_files import open_job_file, parquet_table, require_tables, save
from services.client.jobs import InfluenceServerInfo, Job, JobState
from services.client.ranked_stream import RankedStream, open_ranked_stream
from services.client.reconnect import Reconnect
from services.client.row_converters import row_of
from services.client.rows import QuarantinedSample, QueryPair, RankedSample, RelabelSuggestion, Row
from services.client.spec_converters import (
    ORDERS,
    TABLES,
    audit_spec,
    create_request,
    explain_spec,
    rank_spec,
    relabel_spec,
    sample_selection,
)
from services.client.specs import (
    Artifact,
    HarmfulSamples,
    Influence,
    JobOptions,
    NeighborSpace,
    Queries,
    RankOrder,
    RunOptions,
    Table,
    VoteRule,
)
from services.client.streams import Stream
from services.client.watching import last_of, watch

if TYPE_CHECKING:
    import pyarrow as pa

DEFAULT_TARGET = "127.0.0.1:50051"
_RETRIED = (
    # Delete is not among them: its second try would find nothing and look like a failure. Streams resume on their own.
    "CreateInfluenceJob",
    "GetInfluenceJob",
    "ListInfluenceJobs",
    "CancelInfluenceJob",
    "ListJobResults",
    "EvaluateAudit",
    "CompareAudits",
    "GetServerInfo",
)


class InfluenceClient:
    """Submits jobs, follows them and reads their results. Thread-safe. Close it, or use it in a `with`.

    Every method raises EifRpcError (services/client/errors.py). A job is given as a Job, as its name or as its id.

    Args:
        target: `host:port` of the service.
        project: Project of the jobs that are created, listed, or named by id only.
        timeout: Seconds until a call that is not a stream is given up.
        reconnect: How patient streams are when the connection is lost.
        credentials: TLS and who calls; plain text and nobody by default. `Credentials.from_environ(os.environ)` reads
            EIF_CLIENT_*. Those that cannot be used raise CredentialsError.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        project: str = "default",
        timeout: float = 30.0,
        reconnect: Reconnect | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        self.project = project
        self._reconnect = reconnect or Reconnect()
        self._connection = Connection(
            target,
            service="eif.influence.v1.InfluenceService",
            retried=_RETRIED,
            timeout=timeout,
            credentials=credentials,
        )
        self._stub = influence_service_pb2_grpc.InfluenceServiceStub(self._connection.channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; every call and stream of this client ends."""
        self._connection.close()

    def rank(
        self,
        *,
        model: Artifact | str,
        train: Artifact | str,
        test: Artifact | str,
        queries: Queries | None = None,
        influence: Influence | None = None,
        top_k: int | None = None,
        run: RunOptions | None = None,
        options: JobOptions | None = None,
    ) -> Job:
        """Submit a job that ranks training samples by their influence on confusions; it runs after the reply.

        Args:
            model: URI of the model bundle.
            train: URI of the manifest of the training samples.
            test: URI of the manifest in which confusions are looked for.
            queries: Which confusions to explain; all confusion pairs by default.
            influence: How influence is computed.
            top_k: Samples kept per query from each end; None is the server's default.
            run: Device, seed and tolerance.
            options: Name, title, place of the results, request id.
        """
        spec = rank_spec(
            model=model,
            train=train,
            test=test,
            queries=queries or Queries(),
            influence=influence or Influence(),
            top_k=top_k,
            run=run or RunOptions(),
        )
        return self._create(job_pb2.InfluenceJob(rank=spec), options or JobOptions())

    def relabel(
        self,
        *,
        train: Artifact | str,
        model: Artifact | str | None = None,
        sample_ids: Sequence[str] = (),
        harmful: HarmfulSamples | None = None,
        space: NeighborSpace = NeighborSpace.PENULTIMATE,
        knn_index: str | None = None,
        num_neighbors: int | None = None,
        vote: VoteRule = VoteRule.SOFT,
        run: RunOptions | None = None,
        options: JobOptions | None = None,
    ) -> Job:
        """Submit a job that suggests labels by a vote of the nearest training samples; it runs after the reply.

        Args:
            train: URI of the manifest of the training samples.
            model: URI of the model bundle; not needed with `knn_index`.
            sample_ids: Only these samples. Excludes `harmful`.
            harmful: Only the most harmful samples of a rank job.
            space: Where neighbours are looked for.
            knn_index: Look for them in this index of the embedding service instead (name or id).
            num_neighbors: Neighbours that vote; None is the median number of samples in a class.
            vote: How they vote.
            run: Device, seed and tolerance.
            options: Name, title, place of the results, request id.
        """
        spec = relabel_spec(
            train=train,
            model=model,
            samples=sample_selection(tuple(sample_ids), harmful, project=self.project),
            space=space,
            knn_index=names.index_name(knn_index, self.project) if knn_index is not None else None,
            num_neighbors=num_neighbors,
            vote=vote,
            run=run or RunOptions(),
        )
        return self._create(job_pb2.InfluenceJob(relabel=spec), options or JobOptions())

    def audit(
        self,
        *,
        train: Artifact | str,
        test: Artifact | str,
        model: Artifact | str | None = None,
        embeddings: tuple[Artifact | str, Artifact | str] | None = None,
        decisions: Artifact | str | None = None,
        previous: Job | str | None = None,
        group_by: Sequence[str] = (),
        influence: Influence | None = None,
        top_k: int | None = None,
        proofs: int | None = None,
        report: bool = True,
        run: RunOptions | None = None,
        options: JobOptions | None = None,
    ) -> Job:
        """Submit an audit of a model and its data; it runs after the reply.

        Args:
            train: URI of the manifest of the training samples.
            test: URI of the manifest of the test samples.
            model: URI of the model bundle.
            embeddings: Without a model: URIs of Parquet files (columns `id` and `embedding`) for train and test.
            decisions: What people have decided before: what they found right is not asked again.
            previous: An earlier audit; the report then shows what is new, fixed and persisting.
            group_by: Columns of the train manifest to roll findings up by.
            influence: How influence is computed.
            top_k: Samples kept per confusion class from each end; None is the server's default.
            proofs: Confusion classes that the proof retrains for; 0 for none, None is the server's default.
            report: Whether to write report.html.
            run: Device, seed and tolerance.
            options: Name, title, place of the results, request id.
        """
        spec = audit_spec(
            train=train,
            test=test,
            model=model,
            embeddings=embeddings,
            decisions=decisions,
            previous_audit=self._name(previous) if previous is not None else "",
            group_by=group_by,
            influence=influence or Influence(),
            top_k=top_k,
            proofs=proofs,
            report=report,
            run=run or RunOptions(),
        )
        return self._create(job_pb2.InfluenceJob(audit=spec), options or JobOptions())

    def explain(
        self,
        *,
        model: Artifact | str,
        manifest: Artifact | str,
        pairs: Sequence[tuple[str, str]],
        run: RunOptions | None = None,
        options: JobOptions | None = None,
    ) -> Job:
        """Submit a job that explains why pairs of samples look alike; it runs after the reply.

        Args:
            model: URI of the model bundle.
            manifest: URI of the manifest that holds both samples of every pair.
            pairs: Sample ids, two a pair.
            run: Device, seed and tolerance.
            options: Name, title, place of the results, request id.
        """
        spec = explain_spec(model=model, manifest=manifest, pairs=pairs, run=run or RunOptions())
        return self._create(job_pb2.InfluenceJob(explain=spec), options or JobOptions())

    def get_job(self, job: Job | str) -> Job:
        """A job as it is now."""
        request = influence_service_pb2.GetInfluenceJobRequest(name=self._name(job))
        return job_of(self._connection.call(self._stub.GetInfluenceJob, request))

    def list_jobs(self, *, states: Sequence[JobState] = (), page_size: int = 0) -> Iterator[Job]:
        """The jobs of the project, newest first; only those in `states` when given. Pages are fetched as needed."""
        request = influence_service_pb2.ListInfluenceJobsRequest(
            parent=names.parent(self.project), page_size=page_size, states=[STATE_VALUES[state] for state in states]
        )
        while True:
            page = self._connection.call(self._stub.ListInfluenceJobs, request)
            yield from map(job_of, page.influence_jobs)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def cancel_job(self, job: Job | str) -> Job:
        """Ask a job to stop; one that has ended stays as it is. Returns before it has stopped: see `wait`."""
        request = influence_service_pb2.CancelInfluenceJobRequest(name=self._name(job))
        return job_of(self._connection.call(self._stub.CancelInfluenceJob, request))

    def delete_job(self, job: Job | str, *, etag: str = "") -> None:
        """Delete an ended job and its results; with `etag`, only while it is unchanged."""
        request = influence_service_pb2.DeleteInfluenceJobRequest(name=self._name(job), etag=etag)
        self._connection.call(self._stub.DeleteInfluenceJob, request)

    def watch(self, job: Job | str, *, timeout: float | None = None) -> Stream[Job]:
        """The job now and at every change, the last time in its terminal state; outlives lost connections.

        With `timeout` (seconds), raises DeadlineExceeded when the job has not ended by then.
        """
        request = influence_service_pb2.WatchInfluenceJobRequest(name=self._name(job))
        return watch(
            lambda call_timeout: self._stub.WatchInfluenceJob(request, timeout=call_timeout),
            name=request.name,
            resource_of=lambda event: job_of(event.influence_job),
            is_terminal=lambda seen: seen.state.is_terminal,
            connection=self._connection,
            reconnect=self._reconnect,
            timeout=timeout,
        )

    def wait(self, job: Job | str, *, timeout: float | None = None) -> Job:
        """The job once it succeeded. Raises JobFailed, JobCancelled, or DeadlineExceeded after `timeout` seconds."""
        return raise_unless_succeeded(last_of(self.watch(job, timeout=timeout)) or self.get_job(job))

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

    def evaluate_audit(self, job: Job | str, *, baseline: Job | str | None = None, policy: str = "") -> AuditVerdict:
        """Judge a succeeded audit by a policy (docs/gate.md).

        Args:
            job: The audit.
            baseline: The audit to compare with; rules about changes need one.
            policy: YAML; empty is the default policy of the server.
        """
        request = influence_service_pb2.EvaluateAuditRequest(
            name=self._name(job), baseline="" if baseline is None else self._name(baseline), policy=policy
        )
        return verdict_of(self._connection.call(self._stub.EvaluateAudit, request))

    def compare_audits(
        self,
        job: Job | str,
        baseline: Job | str,
        *,
        changes: Sequence[Change] = (Change.NEW, Change.FIXED),
        kinds: Sequence[str] = (),
        page_size: int = 0,
    ) -> AuditDifferences:
        """What is new, fixed and persisting between two succeeded audits; pages are fetched as needed.

        Args:
            job: The audit.
            baseline: The earlier one.
            changes: Only these.
            kinds: Only findings of these kinds, such as `label_issue`; all by default.
            page_size: Findings fetched at once; 0 is the server's default.
        """
        request = influence_service_pb2.CompareAuditsRequest(
            name=self._name(job),
            baseline=self._name(baseline),
            changes=[CHANGE_VALUES[change] for change in changes],
            kinds=kinds,
            page_size=page_size,
        )
        first = self._connection.call(self._stub.CompareAudits, request)
        return AuditDifferences(counts=tuple(map(count_of, first.counts)), changes=self._changes(request, first))

    def server_info(self) -> InfluenceServerInfo:
        """What the server is and what its limits are."""
        return server_info_of(
            self._connection.call(self._stub.GetServerInfo, influence_service_pb2.GetServerInfoRequest())
        )

    def _changes(
        self,
        request: influence_service_pb2.CompareAuditsRequest,
        page: influence_service_pb2.CompareAuditsResponse,
    ) -> Iterator[FindingChange]:
        while True:
            yield from map(change_of, page.changes)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token
            page = self._connection.call(self._stub.CompareAudits, request)

    def _create(self, job: job_pb2.InfluenceJob, options: JobOptions) -> Job:
        request = create_request(job, options, project=self.project)
        return job_of(self._connection.call(self._stub.CreateInfluenceJob, request))

    def _name(self, job: Job | str) -> str:
        return job.name if isinstance(job, Job) else names.job_name(job, self.project)
