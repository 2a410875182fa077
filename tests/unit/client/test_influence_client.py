from __future__ import annotations

import asyncio
import time
import uuid
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from eif.influence.v1 import influence_service_pb2, job_pb2, results_pb2
from google.protobuf import empty_pb2

from services.client import connection, errors
from services.client.influence import InfluenceClient
from services.client.jobs import JobState
from services.client.rows import QuarantinedSample, QueryPair, RankedSample, RelabelSuggestion, Voter
from services.client.specs import (
    Artifact,
    Device,
    Distance,
    FirstOrder,
    HarmfulSamples,
    Influence,
    JobOptions,
    Metric,
    NeighborSpace,
    PublishedSteps,
    Queries,
    QueryKind,
    RunOptions,
    Table,
    UnitSteps,
    VoteRule,
)
from tests.scripted_server import Context, Handler, ScriptedServer, refuse

SERVICE = influence_service_pb2.DESCRIPTOR.services_by_name["InfluenceService"]


def serve(**handlers: Handler) -> ScriptedServer:
    return ScriptedServer(SERVICE, handlers)


async def echo(request: influence_service_pb2.CreateInfluenceJobRequest, _context: Context) -> job_pb2.InfluenceJob:
    job = request.influence_job
    job.name = f"{request.parent}/influenceJobs/{request.influence_job_id or 'made-up'}"
    job.state = job_pb2.JOB_STATE_PENDING
    job.create_time.FromDatetime(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    return job


def test_a_rank_job_with_defaults() -> None:
    with serve(CreateInfluenceJob=echo) as server, InfluenceClient(server.target, project="p1") as client:
        job = client.rank(model="s3://b/m", train="s3://b/train.csv", test="s3://b/test.csv")
    (request,) = server.requests("CreateInfluenceJob")
    spec = request.influence_job.rank
    assert (spec.model.uri, spec.train_manifest.uri, spec.test_manifest.uri) == (
        "s3://b/m",
        "s3://b/train.csv",
        "s3://b/test.csv",
    )
    assert (spec.top_k, spec.queries.max_queries, spec.influence.unit_steps.steps) == (0, 0, 20)
    assert not spec.influence.skip_normalization
    assert not spec.run.HasField("max_quarantined_fraction")
    assert uuid.UUID(request.request_id).version == 4
    assert (job.name, job.job_id, job.kind) == ("projects/p1/influenceJobs/made-up", "made-up", "rank")
    assert job.state is JobState.PENDING
    assert job.create_time == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert job.end_time is None


@pytest.mark.parametrize(
    ("influence", "wanted"),
    [
        (
            Influence(step=UnitSteps(radius=0.6, steps=20), metric=Metric.KFAC, damping=0.1),
            {"unit_steps": job_pb2.UnitSteps(radius=0.6, steps=20), "metric": job_pb2.METRIC_KFAC, "damping": 0.1},
        ),
        (Influence(step=FirstOrder()), {"first_order": job_pb2.FirstOrder(radius=1.0)}),
        (Influence(step=2.0), {"radius": 2.0}),
    ],
)
def test_ways_of_theta(influence: Influence, wanted: dict[str, Any]) -> None:
    with serve(CreateInfluenceJob=echo) as server, InfluenceClient(server.target) as client:
        client.rank(model="s3://b/m", train="s3://b/t", test="s3://b/v", influence=influence)
    (request,) = server.requests("CreateInfluenceJob")
    defaults = {"num_thetas": 2, "distance": job_pb2.DISTANCE_SQUARED_EUCLIDEAN, "metric": job_pb2.METRIC_IDENTITY}
    assert request.influence_job.rank.influence == job_pb2.InfluenceOptions(**(defaults | wanted))


def test_a_rank_job_with_everything() -> None:
    with serve(CreateInfluenceJob=echo) as server, InfluenceClient(server.target) as client:
        client.rank(
            model=Artifact(uri="s3://b/m", sha256="ab" * 32),
            train="s3://b/train.csv",
            test="s3://b/test.csv",
            queries=Queries(kind=QueryKind.MIS_SIMILAR, max_queries=7, pairs=(("a", "b"),), classes=("cat",)),
            influence=Influence(
                step=PublishedSteps(steps=3, learning_rate=0.1), num_thetas=1, normalize=False, distance=Distance.COSINE
            ),
            top_k=9,
            run=RunOptions(device=Device.CPU, seed=5, max_quarantined_fraction=0.0),
            options=JobOptions(
                job_id="my-job",
                display_name="night run",
                output_uri_prefix="s3://b/out",
                labels={"team": "retrieval"},
                request_id="a3bb189e-8bf9-4a88-9912-ace4e6543002",
                validate_only=True,
            ),
        )
    (request,) = server.requests("CreateInfluenceJob")
    spec = request.influence_job.rank
    assert spec.model.sha256 == "ab" * 32
    assert spec.queries.kind == job_pb2.QuerySelection.KIND_MIS_SIMILAR_PAIRS
    assert [(pair.sample_id, pair.neighbor_id) for pair in spec.queries.pairs] == [("a", "b")]
    assert (spec.queries.max_queries, list(spec.queries.classes)) == (7, ["cat"])
    assert (spec.influence.published.steps, spec.influence.published.learning_rate) == (3, 0.1)
    assert (spec.influence.num_thetas, spec.influence.skip_normalization) == (1, True)
    assert spec.influence.distance == job_pb2.DISTANCE_COSINE
    assert (spec.top_k, spec.run.device, spec.run.seed) == (9, job_pb2.DEVICE_CPU, 5)
    assert spec.run.HasField("max_quarantined_fraction")
    assert (request.influence_job.display_name, request.influence_job.output_uri_prefix) == ("night run", "s3://b/out")
    assert dict(request.influence_job.labels) == {"team": "retrieval"}
    assert (request.influence_job_id, request.validate_only) == ("my-job", True)
    assert request.request_id == "a3bb189e-8bf9-4a88-9912-ace4e6543002"


def test_relabel_specs() -> None:
    with serve(CreateInfluenceJob=echo) as server, InfluenceClient(server.target, project="p1") as client:
        client.relabel(train="s3://b/t.csv", model="s3://b/m", space=NeighborSpace.EMBEDDING, vote=VoteRule.HARD)
        client.relabel(
            train="s3://b/t.csv",
            knn_index="shoes",
            num_neighbors=5,
            harmful=HarmfulSamples(job="r1", query_id="pair:a:b", count=3),
        )
        client.relabel(train="s3://b/t.csv", model="s3://b/m", sample_ids=["x", "y"])
    by_space, by_index, by_ids = (r.influence_job.relabel for r in server.requests("CreateInfluenceJob"))
    assert by_space.space == job_pb2.NEIGHBOR_SPACE_EMBEDDING
    assert by_space.vote == job_pb2.VOTE_RULE_HARD
    assert by_index.knn_index == "projects/p1/indexes/shoes"
    assert not by_index.HasField("model")
    assert by_index.samples.harmful.job == "projects/p1/influenceJobs/r1"
    assert (by_index.samples.harmful.query_id, by_index.samples.harmful.count) == ("pair:a:b", 3)
    assert list(by_ids.samples.sample_ids) == ["x", "y"]


def test_jobs_are_paged_to_the_end() -> None:
    async def pages(request: Any, _context: Context) -> influence_service_pb2.ListInfluenceJobsResponse:
        start = int(request.page_token or 0)
        names = [f"projects/p1/influenceJobs/j{i}" for i in range(start, min(start + 2, 5))]
        return influence_service_pb2.ListInfluenceJobsResponse(
            influence_jobs=[job_pb2.InfluenceJob(name=name) for name in names],
            next_page_token=str(start + 2) if start + 2 < 5 else "",
        )

    with serve(ListInfluenceJobs=pages) as server, InfluenceClient(server.target, project="p1") as client:
        found = [job.job_id for job in client.list_jobs(states=[JobState.FAILED], page_size=2)]
    assert found == ["j0", "j1", "j2", "j3", "j4"]
    assert [request.page_token for request in server.requests("ListInfluenceJobs")] == ["", "2", "4"]
    assert all(list(r.states) == [job_pb2.JOB_STATE_FAILED] for r in server.requests("ListInfluenceJobs"))


def test_get_cancel_delete_name_the_job() -> None:
    async def get(request: Any, _context: Context) -> job_pb2.InfluenceJob:
        return job_pb2.InfluenceJob(name=request.name, state=job_pb2.JOB_STATE_CANCELLING)

    async def delete(_request: object, _context: Context) -> empty_pb2.Empty:
        return empty_pb2.Empty()

    with (
        serve(GetInfluenceJob=get, CancelInfluenceJob=get, DeleteInfluenceJob=delete) as server,
        InfluenceClient(server.target) as client,
    ):
        job = client.get_job("j1")
        assert client.cancel_job(job).state is JobState.CANCELLING
        client.delete_job("projects/other/influenceJobs/j2", etag="e")
    assert [(name, request.name) for name, request in server.calls] == [
        ("GetInfluenceJob", "projects/default/influenceJobs/j1"),
        ("CancelInfluenceJob", "projects/default/influenceJobs/j1"),
        ("DeleteInfluenceJob", "projects/other/influenceJobs/j2"),
    ]
    assert server.requests("DeleteInfluenceJob")[0].etag == "e"


def test_a_job_has_its_output() -> None:
    async def get(request: Any, _context: Context) -> job_pb2.InfluenceJob:
        job = job_pb2.InfluenceJob(name=request.name, state=job_pb2.JOB_STATE_SUCCEEDED)
        job.output.manifest_uri = "s3://b/out/u/MANIFEST.json"
        job.output.tables.add(name="ranking", uri="s3://b/out/u/ranking.parquet", sha256="00", rows=5)
        job.output.figures["train_samples"] = 5
        job.output.provenance["device"] = "cpu"
        job.progress.eta.FromMilliseconds(1500)
        return job

    with serve(GetInfluenceJob=get) as server, InfluenceClient(server.target) as client:
        job = client.get_job("j1")
    assert job.output is not None
    assert (job.output.tables[0].name, job.output.tables[0].rows) == ("ranking", 5)
    assert (job.output.figures, job.output.provenance) == ({"train_samples": 5.0}, {"device": "cpu"})
    assert job.progress is not None
    assert job.progress.eta_seconds == 1.5


ROWS = {
    Table.RANKING: (
        results_pb2.ResultRow(
            ranked=results_pb2.RankedSample(query_id="all", rank=1, sample_id="a", label="x", score=-0.5)
        ),
        RankedSample(query_id="all", rank=1, sample_id="a", label="x", score=-0.5),
    ),
    Table.RELABEL: (
        results_pb2.ResultRow(
            relabel=results_pb2.RelabelSuggestion(
                rank=1,
                sample_id="a",
                label="x",
                suggested_label="y",
                suggested_probability=0.75,
                label_probability=0.25,
                score=0.75,
                neighbors=[results_pb2.Neighbor(sample_id="b", label="y", distance=0.5)],
            )
        ),
        RelabelSuggestion(
            rank=1,
            sample_id="a",
            label="x",
            suggested_label="y",
            suggested_probability=0.75,
            label_probability=0.25,
            score=0.75,
            neighbors=(Voter(sample_id="b", label="y", distance=0.5),),
        ),
    ),
    Table.PAIRS: (
        results_pb2.ResultRow(
            pair=results_pb2.QueryPair(
                query_id="pair:a:b",
                kind="confusion",
                sample_id="a",
                neighbor_id="b",
                label="x",
                neighbor_label="y",
                distance=0.5,
            )
        ),
        QueryPair(
            query_id="pair:a:b",
            kind="confusion",
            sample_id="a",
            neighbor_id="b",
            label="x",
            neighbor_label="y",
            distance=0.5,
        ),
    ),
    Table.QUARANTINE: (
        results_pb2.ResultRow(
            quarantined=results_pb2.QuarantinedSample(
                sample_id="a", uri="s3://b/a.png", split="train", reason="IMAGE_INVALID", message="truncated"
            )
        ),
        QuarantinedSample(
            sample_id="a", uri="s3://b/a.png", split="train", reason="IMAGE_INVALID", message="truncated"
        ),
    ),
}


@pytest.mark.parametrize("table", list(Table))
def test_rows_of_every_table(table: Table) -> None:
    sent, expected = ROWS[table]

    async def pages(request: Any, _context: Context) -> influence_service_pb2.ListJobResultsResponse:
        newer = results_pb2.ResultRow()
        return influence_service_pb2.ListJobResultsResponse(
            rows=[sent, newer], next_page_token="" if request.page_token else "next", total_rows=2
        )

    with serve(ListJobResults=pages) as server, InfluenceClient(server.target) as client:
        assert list(client.results("j1", table, query_id="q", page_size=1)) == [expected, expected]
    first, second = server.requests("ListJobResults")
    assert (first.table, first.query_id, first.page_size) == (
        results_pb2.ResultTable.Value(f"RESULT_TABLE_{table.name}"),
        "q",
        1,
    )
    assert second.page_token == "next"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, errors.InvalidArgument),
        (grpc.StatusCode.NOT_FOUND, errors.NotFound),
        (grpc.StatusCode.ALREADY_EXISTS, errors.AlreadyExists),
        (grpc.StatusCode.PERMISSION_DENIED, errors.PermissionDenied),
        (grpc.StatusCode.FAILED_PRECONDITION, errors.FailedPrecondition),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.ResourceExhausted),
        (grpc.StatusCode.ABORTED, errors.Aborted),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineExceeded),
        (grpc.StatusCode.DATA_LOSS, errors.DataLoss),
        (grpc.StatusCode.CANCELLED, errors.Cancelled),
        (grpc.StatusCode.INTERNAL, errors.Internal),
        (grpc.StatusCode.UNIMPLEMENTED, errors.EifRpcError),
    ],
)
def test_every_code_has_its_class(code: grpc.StatusCode, kind: type[errors.EifRpcError]) -> None:
    async def fail(_request: object, context: Context) -> None:
        await refuse(context, code, "SOME_REASON", "what is wrong", file="a.csv", line="3")

    with serve(GetInfluenceJob=fail) as server, InfluenceClient(server.target) as client:
        with pytest.raises(errors.EifRpcError) as caught:
            client.get_job("j1")
        assert len(server.calls) == 1
    assert type(caught.value) is kind
    assert (caught.value.code, caught.value.reason, caught.value.message) == (code, "SOME_REASON", "what is wrong")
    assert caught.value.metadata == {"file": "a.csv", "line": "3"}
    assert caught.value.from_service
    assert isinstance(caught.value.__cause__, grpc.RpcError)


def test_unavailable_is_tried_again_with_the_same_request_id() -> None:
    attempts = []

    async def flaky(request: Any, context: Context) -> job_pb2.InfluenceJob:
        attempts.append(request.request_id)
        if len(attempts) < 3:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
        return await echo(request, context)

    with serve(CreateInfluenceJob=flaky) as server, InfluenceClient(server.target) as client:
        client.rank(model="s3://b/m", train="s3://b/t", test="s3://b/v")
    assert len(attempts) == 3
    assert len(set(attempts)) == 1


def test_a_delete_is_never_sent_twice() -> None:
    async def away(_request: object, context: Context) -> None:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")

    with serve(DeleteInfluenceJob=away) as server, InfluenceClient(server.target) as client:
        with pytest.raises(errors.Unavailable):
            client.delete_job("j1")
        assert len(server.calls) == 1


def test_no_server_is_unavailable_and_names_the_target(free_port: int) -> None:
    with InfluenceClient(f"127.0.0.1:{free_port}") as client, pytest.raises(errors.Unavailable) as caught:
        client.get_job("j1")
    assert caught.value.reason == "SERVER_UNREACHABLE"
    assert f"127.0.0.1:{free_port}" in caught.value.message
    assert not caught.value.from_service


def test_every_call_has_a_deadline() -> None:
    async def hang(_request: object, _context: Context) -> None:
        await asyncio.Event().wait()

    with serve(GetInfluenceJob=hang) as server, InfluenceClient(server.target, timeout=0.2) as client:
        begun = time.monotonic()
        with pytest.raises(errors.DeadlineExceeded):
            client.get_job("j1")
        assert time.monotonic() - begun < 3
        assert server.wait_until_idle()


def test_a_damaged_error_detail_still_gives_the_code() -> None:
    async def fail(_request: object, context: Context) -> None:
        context.set_trailing_metadata((("grpc-status-details-bin", b"\xff\xff\xff"),))
        await context.abort(grpc.StatusCode.NOT_FOUND, "gone")

    with (
        serve(GetInfluenceJob=fail) as server,
        InfluenceClient(server.target) as client,
        pytest.raises(errors.NotFound) as caught,
    ):
        client.get_job("j1")
    assert caught.value.reason == "NOT_FOUND"
    assert "gone" in caught.value.message


def test_a_closed_client_says_so() -> None:
    with serve() as server:
        client = InfluenceClient(server.target)
        client.close()
        with pytest.raises(errors.Cancelled, match="was closed") as caught:
            client.get_job("j1")
        assert caught.value.reason == "CLIENT_CLOSED"
        with pytest.raises(errors.Cancelled, match="was closed"):
            next(client.watch("j1"))


def test_an_answer_larger_than_4_mib_is_read() -> None:
    async def big(_request: object, _context: Context) -> influence_service_pb2.ListJobResultsResponse:
        message = "x" * 6_000_000
        row = results_pb2.ResultRow(quarantined=results_pb2.QuarantinedSample(sample_id="a", message=message))
        return influence_service_pb2.ListJobResultsResponse(rows=[row])

    with serve(ListJobResults=big) as server, InfluenceClient(server.target) as client:
        (row,) = client.results("j1", Table.QUARANTINE)
    assert len(row.message) == 6_000_000


def test_a_message_that_is_too_large_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async def big(_request: object, _context: Context) -> influence_service_pb2.ServerInfo:
        return influence_service_pb2.ServerInfo(version="x" * 2_000_000)

    monkeypatch.setattr(connection, "MAX_RECEIVED_BYTES", 1_000_000)
    with serve(GetServerInfo=big) as server, InfluenceClient(server.target) as client:
        with pytest.raises(errors.InvalidArgument, match=f"and {server.target} takes at most 4194304") as request:
            client.evaluate_audit("j1", policy="x" * 5_000_000)
        with pytest.raises(errors.InvalidArgument, match="and this client takes at most 1000000") as answer:
            client.server_info()
    for caught in (request, answer):
        assert caught.value.reason == "MESSAGE_TOO_LARGE"
        assert int(caught.value.metadata["size_bytes"]) > int(caught.value.metadata["limit_bytes"])


def test_a_timeout_must_be_positive() -> None:
    with pytest.raises(ValueError, match="timeout must be above 0"):
        InfluenceClient("127.0.0.1:1", timeout=0)
