"""One trace from the caller through the service, the job process and the store, as a real collector sees it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from eif.influence.v1 import influence_service_pb2 as service_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from services.client.errors import EifRpcError
from services.client.influence import InfluenceClient
from services.client.jobs import Job
from services.client.tracing import current_traceparent
from tests.influence_process import InfluenceProcess, influence_process
from tests.job_world import JobWorld
from tests.otlp import Collector, KeptSpan, running_collector

SERVICE = "eif.influence.v1.InfluenceService"
SERVER, CLIENT = 2, 3


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with running_collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[InfluenceProcess]:
    with influence_process(tmp_path_factory.mktemp("traced"), scripted=False, **collector.environ) as server:
        yield server


class Caller:
    """A program that is traced itself, and its one span."""

    def __init__(self, address: str) -> None:
        self._tracer = TracerProvider(shutdown_on_exit=False).get_tracer("caller")
        self.client = InfluenceClient(address, project="p")

    def call(self, work: str, **arguments: object) -> tuple[object, trace.SpanContext]:
        """Call a method of the client within a span; its result, or the error, and the span."""
        with self._tracer.start_as_current_span("caller") as span:
            try:
                result = getattr(self.client, work)(**arguments)
            except EifRpcError as error:
                result = error
        return result, span.get_span_context()


@pytest.fixture(scope="module")
def caller(server: InfluenceProcess) -> Iterator[Caller]:
    caller = Caller(server.address)
    yield caller
    caller.client.close()


def hex_ids(context: trace.SpanContext) -> tuple[str, str]:
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"


@pytest.fixture(scope="module")
def job_trace(
    server: InfluenceProcess, caller: Caller, collector: Collector
) -> tuple[dict[str, KeptSpan], list[KeptSpan], str, str]:
    """A job that was created within a span: its spans by name, all of them, and trace and id of the span."""
    world = JobWorld(server.folder / "world")
    spec = world.rank_spec()
    assert spec.model is not None
    job, context = caller.call("rank", model=spec.model.uri, train=spec.train_manifest.uri, test=spec.test_manifest.uri)
    assert isinstance(job, Job), job
    caller.client.wait(job)
    trace_id, span_id = hex_ids(context)
    collector.wait_for(lambda span: span.name == "job rank" and span.trace_id == trace_id)
    collector.wait_for(lambda span: span.name == "stage results" and span.trace_id == trace_id)
    spans = [span for span in collector.spans if span.trace_id == trace_id]
    return {span.name: span for span in spans}, spans, trace_id, span_id


JobTrace = tuple[dict[str, KeptSpan], list[KeptSpan], str, str]


def test_a_job_is_one_trace_with_right_parents(job_trace: JobTrace) -> None:
    by_name, _, _, caller_span = job_trace
    create, job = by_name[f"{SERVICE}/CreateInfluenceJob"], by_name["job rank"]
    assert (create.service, create.kind, create.parent_id) == ("eif-influence", SERVER, caller_span)
    assert (job.service, job.parent_id, job.error) == ("eif-influence", create.span_id, None)
    assert job.attributes["eif.outcome"] == "succeeded"
    assert job.attributes["eif.attempt"] == 1
    for stage in ("inputs", "features", "confusions", "influence", "results"):
        span = by_name[f"stage {stage}"]
        assert (span.service, span.parent_id) == ("eif-influence-job", job.span_id)


def test_requests_to_the_store_are_below_what_they_are_done_for(job_trace: JobTrace) -> None:
    by_name, spans, _, _ = job_trace
    create, job = by_name[f"{SERVICE}/CreateInfluenceJob"], by_name["job rank"]
    storage = [span for span in spans if span.name.startswith("storage ")]
    assert {span.kind for span in storage} == {CLIENT}
    parents = {(span.service, span.name, span.parent_id) for span in storage}
    assert ("eif-influence", "storage head", create.span_id) in parents
    assert ("eif-influence-job", "storage put", by_name["stage results"].span_id) in parents
    assert ("eif-influence-job", "storage download", by_name["stage inputs"].span_id) in parents
    assert ("eif-influence-job", "storage read", by_name["stage features"].span_id) in parents
    assert ("eif-influence-job", "storage read", job.span_id) in parents  # is there a result already?
    assert by_name["stage results"].attributes["eif.storage.requests"] >= 4
    missing = [span for span in storage if span.attributes["eif.storage.code"] == "OBJECT_NOT_FOUND"]
    assert missing
    assert {span.error for span in missing} == {None}


def test_a_span_of_a_call_has_its_code_reason_and_job(
    job_trace: JobTrace, caller: Caller, collector: Collector
) -> None:
    error, context = caller.call("get_job", job="none")
    assert isinstance(error, EifRpcError)
    trace_id, span_id = hex_ids(context)
    span = collector.wait_for(lambda span: span.trace_id == trace_id)
    assert (span.name, span.parent_id, span.error) == (f"{SERVICE}/GetInfluenceJob", span_id, None)
    assert span.attributes["rpc.grpc.status_code"] == grpc.StatusCode.NOT_FOUND.value[0]
    assert span.attributes["eif.reason"] == "JOB_NOT_FOUND"
    create = job_trace[0][f"{SERVICE}/CreateInfluenceJob"]
    assert create.attributes["eif.job_uid"] == job_trace[0]["job rank"].attributes["eif.job_uid"]


def test_spans_have_no_uris_and_no_secrets(job_trace: JobTrace) -> None:
    values = [value for span in job_trace[1] for value in (span.name, *span.attributes.values())]
    assert not [value for value in values if isinstance(value, str) and "://" in value]


def test_health_checks_have_no_span_and_streams_have_one(
    server: InfluenceProcess, job_trace: JobTrace, collector: Collector
) -> None:
    health: Any = health_pb2_grpc.HealthStub(server.channel)
    for _ in range(3):
        health.Check(health_pb2.HealthCheckRequest(), timeout=10)
    name = job_trace[0]["job rank"].attributes["eif.job"]
    parent = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    request = service_pb2.WatchInfluenceJobRequest(name=name)
    assert list(server.stub.WatchInfluenceJob(request, timeout=10, metadata=(("traceparent", parent),)))
    span = collector.wait_for(lambda span: span.trace_id == "a" * 32)
    assert (span.name, span.parent_id) == (f"{SERVICE}/WatchInfluenceJob", "b" * 16)
    assert not [span for span in collector.spans if "Health" in span.name]


def test_what_the_caller_does_not_sample_is_not_sent(server: InfluenceProcess, collector: Collector) -> None:
    for trace_id, flags in (("c" * 32, "00"), ("d" * 32, "01")):
        metadata = (("traceparent", f"00-{trace_id}-{'b' * 16}-{flags}"),)
        server.stub.GetServerInfo(service_pb2.GetServerInfoRequest(), timeout=30, metadata=metadata)
    collector.wait_for(lambda span: span.trace_id == "d" * 32)
    assert not [span for span in collector.spans if span.trace_id == "c" * 32]


def test_a_call_without_a_trace_begins_one(server: InfluenceProcess, collector: Collector) -> None:
    server.stub.ListInfluenceJobs(service_pb2.ListInfluenceJobsRequest(parent="projects/lonely"), timeout=10)
    span = collector.wait_for(lambda span: span.name == f"{SERVICE}/ListInfluenceJobs")
    assert span.parent_id == ""


def test_logs_of_server_and_job_have_the_ids_of_the_trace(server: InfluenceProcess, job_trace: JobTrace) -> None:
    by_name, _, trace_id, _ = job_trace
    job_uid = by_name["job rank"].attributes["eif.job_uid"]
    lines = [json.loads(line) for line in (server.folder / "server.log").read_text().splitlines()]
    (created,) = [line for line in lines if line.get("method") == f"/{SERVICE}/CreateInfluenceJob"]
    assert created["trace_id"] == trace_id
    assert created["span_id"] == by_name[f"{SERVICE}/CreateInfluenceJob"].span_id
    assert created["job_uid"] == job_uid


def test_a_job_that_fails_says_why_in_spans_and_in_its_log_without_secrets(
    server: InfluenceProcess, caller: Caller, collector: Collector
) -> None:
    world = JobWorld(server.folder / "failing")
    presigned = "https://store.example/k?X-Amz-Signature=deadbeef"
    wrong = world.manifest("wrong.jsonl", [{"id": "a", "uri": presigned, "label": ["no", "label", presigned]}])
    spec = world.rank_spec(train_manifest=wrong)
    assert spec.model is not None
    job, context = caller.call("rank", model=spec.model.uri, train=spec.train_manifest.uri, test=spec.test_manifest.uri)
    assert isinstance(job, Job), job
    trace_id, _ = hex_ids(context)
    span = collector.wait_for(lambda span: span.name == "job rank" and span.trace_id == trace_id)
    stage = collector.wait_for(lambda span: span.name == "stage inputs" and span.trace_id == trace_id)
    assert (span.error, stage.error) == ("MANIFEST_INVALID",) * 2
    (log,) = server.folder.glob(f"state/jobs/{job.uid}/**/log.txt")
    text = log.read_text()
    assert "deadbeef" not in text
    lines = [json.loads(line) for line in text.splitlines()]
    (failed,) = [line for line in lines if "MANIFEST_INVALID" in line["message"]]
    assert (failed["job_uid"], failed["trace_id"]) == (job.uid, trace_id)


def test_no_stream_complains_of_a_context_of_somebody_else(server: InfluenceProcess, job_trace: JobTrace) -> None:
    name = job_trace[0]["job rank"].attributes["eif.job"]
    for _ in range(20):
        stream = server.stub.WatchInfluenceJob(service_pb2.WatchInfluenceJobRequest(name=name), timeout=10)
        next(stream)
        stream.cancel()
    server.stub.GetServerInfo(service_pb2.GetServerInfoRequest(), timeout=10)
    log = (server.folder / "server.log").read_text()
    assert not re.search("different Context|ERROR|Traceback", log)


def test_a_client_outside_of_spans_sends_nothing() -> None:
    assert current_traceparent() is None
    with TracerProvider(shutdown_on_exit=False).get_tracer("t").start_as_current_span("s") as span:
        trace_id, span_id = hex_ids(span.get_span_context())
        assert current_traceparent() == f"00-{trace_id}-{span_id}-01"


def test_a_collector_that_is_away_holds_up_neither_calls_nor_jobs_nor_the_end(tmp_path: Path) -> None:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_BSP_SCHEDULE_DELAY": "50"}
    world = JobWorld(tmp_path / "world")
    spec = world.rank_spec()
    with influence_process(tmp_path, scripted=False, **environ) as server, InfluenceClient(server.address) as client:
        assert spec.model is not None
        job = client.rank(model=spec.model.uri, train=spec.train_manifest.uri, test=spec.test_manifest.uri)
        client.wait(job)
        assert server.terminate() == 0
