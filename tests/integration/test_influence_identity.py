"""The influence service when it knows its callers."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from eif.influence.v1 import influence_service_pb2 as service_pb2
from eif.influence.v1 import influence_service_pb2_grpc, job_pb2
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from services.common.telemetry import JsonFormatter
from services.influence.access import RULES
from tests.influence_app import FOREVER, SUCCEED, Influence, Refusal, refusal, refusal_of, running_influence
from tests.secured import Secured, bearer

SERVICE = service_pb2.DESCRIPTOR.services_by_name["InfluenceService"]
METHODS = {method.name: method for method in SERVICE.methods}
CODE = grpc.StatusCode


@pytest.fixture
def secured(tmp_path: Path) -> Secured:
    return Secured(tmp_path / "secured")


@asynccontextmanager
async def server(tmp_path: Path, secured: Secured, **settings: Any) -> AsyncIterator[Influence]:
    """A server with TLS and tokens, and a plain project p for whoever the policy names."""
    async with running_influence(tmp_path, connect=secured.connect(), **secured.settings(), **settings) as influence:
        yield influence


def grant(secured: Secured, root: Path, *verbs: str, project: str = "p", identity: str = "token:*") -> None:
    """One grant, in a project that may use all of the store; `other` is there too."""
    place = f"file://{root}/"
    secured.policy(([identity], [project], verbs), p={"inputs": [place], "outputs": [place]}, other={})


def request_of(method: MethodDescriptor, project: str = "p") -> Any:
    """A request about something of a project that is not there."""
    request: Any = GetMessageClass(method.input_type)()
    field = RULES[f"/{SERVICE.full_name}/{method.name}"].field
    if field:
        parent = f"projects/{project}"
        setattr(request, field, parent if field == "parent" else f"{parent}/influenceJobs/none")
    return request


async def outcome(influence: Influence, method: str, request: Any, token: str | None = None) -> Refusal | None:
    """How a call of any kind was refused; None when it was not."""
    metadata = bearer(token) if token else ()
    call = getattr(influence.stub, method)(request, metadata=metadata, timeout=20)
    try:
        await (call.read() if METHODS[method].server_streaming else call)
    except grpc.aio.AioRpcError as error:
        return refusal_of(error)
    finally:
        call.cancel()
    return None


async def test_without_a_token_that_counts_nobody_gets_in(tmp_path: Path, secured: Secured) -> None:
    token = secured.token("nightly")
    async with server(tmp_path, secured) as influence:
        grant(secured, influence.root, "read")
        request = request_of(METHODS["ListInfluenceJobs"])
        assert await outcome(influence, "ListInfluenceJobs", request, token) is None
        missing = await outcome(influence, "ListInfluenceJobs", request)
        assert missing is not None
        assert (missing.code, missing.reason) == (CODE.UNAUTHENTICATED, "CREDENTIALS_MISSING")
        for wrong in (f"{token}x", "hunter2", "x" * 4000):
            invalid = await outcome(influence, "ListInfluenceJobs", request, wrong)
            assert invalid is not None
            assert (invalid.code, invalid.reason) == (CODE.UNAUTHENTICATED, "CREDENTIALS_INVALID")
            assert wrong not in invalid.message
        for metadata in (
            (("authorization", f"Basic {token}"),),
            (("authorization", token),),
            (("authorization", f"Bearer {token} {token}"),),
            (*bearer(token), *bearer(token)),
        ):
            twice = await refusal(influence.stub.ListInfluenceJobs(request, metadata=metadata))
            assert twice.reason == "CREDENTIALS_INVALID"


@pytest.mark.parametrize("method", sorted(METHODS))
async def test_no_method_is_open(method: str, tmp_path: Path, secured: Secured) -> None:
    """Not to a caller without credentials, not to one to whom nothing is granted, not in another project."""
    token = secured.token("nightly")
    async with server(tmp_path, secured) as influence:
        request = request_of(METHODS[method])
        anonymous = await outcome(influence, method, request)
        assert anonymous is not None
        assert anonymous.reason == "CREDENTIALS_MISSING"
        nothing = await outcome(influence, method, request, token)
        assert nothing is not None
        assert (nothing.code, nothing.reason) == (CODE.PERMISSION_DENIED, "ACCESS_DENIED")
        grant(secured, influence.root, "read", "write", "search", "embed", "admin", project="other")
        elsewhere = await outcome(influence, method, request, token)
        if method == "GetServerInfo":
            assert elsewhere is None
        else:
            assert elsewhere is not None
            assert elsewhere.reason == "ACCESS_DENIED"
            verb = RULES[f"/{SERVICE.full_name}/{method}"].verb
            expected = {"identity": "token:nightly", "project": "p", "verb": str(verb)}
            assert expected.items() <= elsewhere.metadata.items()


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"GetServerInfo"}))
async def test_each_method_needs_its_verb_and_no_other(method: str, tmp_path: Path, secured: Secured) -> None:
    token = secured.token("nightly")
    verb = str(RULES[f"/{SERVICE.full_name}/{method}"].verb)
    async with server(tmp_path, secured) as influence:
        grant(secured, influence.root, *({"read", "write", "search", "embed", "admin"} - {verb}))
        denied = await outcome(influence, method, request_of(METHODS[method]), token)
        assert denied is not None
        assert denied.reason == "ACCESS_DENIED"
        grant(secured, influence.root, verb)
        allowed = await outcome(influence, method, request_of(METHODS[method]), token)
        assert allowed is None or allowed.reason in {"JOB_NOT_FOUND", "ARGUMENT_INVALID"}


async def test_whether_a_job_exists_is_told_only_to_those_who_may_know(tmp_path: Path, secured: Secured) -> None:
    trainer, spy = secured.token("trainer"), secured.token("spy")
    async with server(tmp_path, secured) as influence:
        grant(secured, influence.root, "read", "write", identity="token:trainer")
        request = service_pb2.CreateInfluenceJobRequest(parent="projects/p", influence_job=influence.rank_job(SUCCEED))
        job = await influence.stub.CreateInfluenceJob(request, metadata=bearer(trainer))
        told = [
            await outcome(influence, "GetInfluenceJob", service_pb2.GetInfluenceJobRequest(name=name), spy)
            for name in (job.name, "projects/p/influenceJobs/none")
        ]
        assert told[0] is not None
        assert told[0] == told[1]
        assert told[0].reason == "ACCESS_DENIED"


PLACES = [
    ("rank", "model"),
    ("rank", "train_manifest"),
    ("rank", "test_manifest"),
    ("relabel", "model"),
    ("relabel", "train_manifest"),
    ("audit", "train_embeddings"),
    ("audit", "decisions"),
    ("explain", "manifest"),
]


@pytest.mark.parametrize(("kind", "field"), PLACES)
async def test_a_uri_outside_of_the_project_is_refused(kind: str, field: str, tmp_path: Path, secured: Secured) -> None:
    token = secured.token("nightly")
    async with server(tmp_path, secured) as influence:
        grant(secured, influence.root / "mine", "write")
        job = job_pb2.InfluenceJob()
        getattr(getattr(job, kind), field).uri = influence.put("theirs/thing.jsonl", "{}")
        request = service_pb2.CreateInfluenceJobRequest(parent="projects/p", influence_job=job)
        refused = await outcome(influence, "CreateInfluenceJob", request, token)
        assert refused is not None
        assert (refused.code, refused.reason) == (CODE.PERMISSION_DENIED, "URI_NOT_ALLOWED")
        assert refused.metadata["field"] == f"influence_job.{kind}.{field}.uri"
        assert f"file://{influence.root}/mine/" in refused.message


async def test_results_go_to_the_places_of_the_project_or_to_the_default(tmp_path: Path, secured: Secured) -> None:
    token = secured.token("nightly")
    async with server(tmp_path, secured) as influence:
        root = f"file://{influence.root}/"
        secured.policy(
            (["token:nightly"], ["p"], ["read", "write"]), p={"inputs": [root], "outputs": [f"{root}results/p/"]}
        )
        for place, reason in (
            (f"{root}results/other", "URI_NOT_ALLOWED"),
            (f"{root}results", "URI_NOT_ALLOWED"),
            (f"{root}results/p/../other", "URI_NOT_ALLOWED"),
            (f"{root}results/p", None),
            (f"{root}results/p/nightly/", None),
            ("", None),
        ):
            job = influence.rank_job(SUCCEED, output_uri_prefix=place)
            request = service_pb2.CreateInfluenceJobRequest(parent="projects/p", influence_job=job, validate_only=True)
            refused = await outcome(influence, "CreateInfluenceJob", request, token)
            assert (refused.reason if refused else None) == reason, place


async def test_what_a_job_refers_to_needs_its_own_grant(tmp_path: Path, secured: Secured) -> None:
    token = secured.token("nightly")
    theirs = "projects/other/influenceJobs/j"
    harmful = job_pb2.RelabelSpec(samples=job_pb2.SampleSelection(harmful=job_pb2.HarmfulSamples(job=theirs)))
    create = service_pb2.CreateInfluenceJobRequest
    jobs = [
        (job_pb2.InfluenceJob(relabel=harmful), "relabel.samples.harmful.job", "read"),
        (job_pb2.InfluenceJob(audit=job_pb2.AuditSpec(previous_audit=theirs)), "audit.previous_audit", "read"),
        (_searching("projects/other/indexes/i"), "relabel.knn_index", "search"),
        (_searching("projects/p/indexes/i"), "relabel.knn_index", "search"),
    ]
    mine = "projects/p/influenceJobs/j"
    cases: list[tuple[str, Any, str, str]] = [
        ("EvaluateAudit", service_pb2.EvaluateAuditRequest(name=mine, baseline=theirs), "baseline", "read"),
        ("CompareAudits", service_pb2.CompareAuditsRequest(name=mine, baseline=theirs), "baseline", "read"),
        *(
            ("CreateInfluenceJob", create(parent="projects/p", influence_job=job), f"influence_job.{field}", verb)
            for job, field, verb in jobs
        ),
    ]
    async with server(tmp_path, secured, embedding_target="127.0.0.1:1") as influence:
        grant(secured, influence.root, "read", "write")
        for method, request, field, verb in cases:
            refused = await outcome(influence, method, request, token)
            assert refused is not None
            assert (refused.reason, refused.metadata["field"], refused.metadata["verb"]) == (
                "ACCESS_DENIED",
                field,
                verb,
            )


def _searching(index: str) -> job_pb2.InfluenceJob:
    return job_pb2.InfluenceJob(relabel=job_pb2.RelabelSpec(knn_index=index))


async def test_a_revoked_token_is_refused_at_the_next_call_and_its_running_watch_goes_on(
    tmp_path: Path, secured: Secured
) -> None:
    token = secured.token("nightly")
    async with server(tmp_path, secured, heartbeat_s=0.1) as influence:
        grant(secured, influence.root, "read", "write")
        create = service_pb2.CreateInfluenceJobRequest(parent="projects/p", influence_job=influence.rank_job(FOREVER))
        job = await influence.stub.CreateInfluenceJob(create, metadata=bearer(token))
        watch: Any = influence.stub.WatchInfluenceJob(
            service_pb2.WatchInfluenceJobRequest(name=job.name), metadata=bearer(token)
        )
        await watch.read()
        secured.revoke("nightly")
        get = service_pb2.GetInfluenceJobRequest(name=job.name)
        refused = await outcome(influence, "GetInfluenceJob", get, token)
        assert refused is not None
        assert (refused.code, refused.reason) == (CODE.UNAUTHENTICATED, "CREDENTIALS_INVALID")
        assert (await watch.read()).influence_job.name == job.name
        watch.cancel()
        renewed = secured.token("nightly")
        assert await outcome(influence, "GetInfluenceJob", get, renewed) is None
        secured.policy((["token:nightly"], ["p"], ["write"]), p={})
        refused = await outcome(influence, "GetInfluenceJob", get, renewed)
        assert refused is not None
        assert refused.reason == "ACCESS_DENIED"


async def test_a_certificate_is_an_identity_and_a_token_comes_before_it(tmp_path: Path, secured: Secured) -> None:
    spiffe = "spiffe://example.org/ns/ml/sa/trainer"
    pipeline = secured.authority.client("pipeline", spiffe=spiffe)
    alice = secured.authority.client("alice", unit="ml")
    token = secured.token("nightly")
    async with running_influence(
        tmp_path, connect=secured.connect(pipeline), **secured.settings(certificates=True)
    ) as influence:
        secured.policy(
            (["spiffe://example.org/ns/ml/*"], ["p"], ["read"]),
            (["subject:CN=alice,OU=ml"], ["other"], ["read"]),
            p={},
            other={},
        )
        of_p = service_pb2.ListInfluenceJobsRequest(parent="projects/p")
        of_other = service_pb2.ListInfluenceJobsRequest(parent="projects/other")
        assert await outcome(influence, "ListInfluenceJobs", of_p) is None
        denied = await outcome(influence, "ListInfluenceJobs", of_other)
        assert denied is not None
        assert denied.metadata["identity"] == spiffe
        forwarded = await outcome(influence, "ListInfluenceJobs", of_p, token)
        assert forwarded is not None
        assert forwarded.metadata["identity"] == "token:nightly"
        wrong = await outcome(influence, "ListInfluenceJobs", of_p, "wrong")
        assert wrong is not None
        assert wrong.reason == "CREDENTIALS_INVALID"
        async with secured.connect(alice)(influence.address) as channel:
            stub = influence_service_pb2_grpc.InfluenceServiceStub(channel)
            assert (await stub.ListInfluenceJobs(of_other)).influence_jobs == []
            assert (await refusal(stub.ListInfluenceJobs(of_p))).metadata["identity"] == "subject:CN=alice,OU=ml"


async def test_health_is_open_and_reflection_is_not_unless_asked_for(tmp_path: Path, secured: Secured) -> None:
    for turn, (wanted, code) in enumerate(((None, CODE.UNIMPLEMENTED), (True, CODE.OK))):
        (tmp_path / str(turn)).mkdir()
        async with (
            server(tmp_path / str(turn), secured, reflection=wanted) as influence,
            secured.connect()(influence.address) as channel,
        ):
            stub: Any = health_pb2_grpc.HealthStub(channel)
            reply = await stub.Check(health_pb2.HealthCheckRequest())
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
            assert await _reflection(channel) is code


async def _reflection(channel: Any) -> grpc.StatusCode:
    """How a question for the services ends."""
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    with suppress(grpc.aio.AioRpcError):
        async for answer in call:
            assert len(answer.list_services_response.service) == 3
    code: grpc.StatusCode = await call.code()
    return code


async def test_the_log_has_every_refusal_with_who_it_was_and_never_a_token(
    tmp_path: Path, secured: Secured, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    token = secured.token("nightly")
    async with server(tmp_path, secured) as influence:
        grant(secured, influence.root, "write")
        request = request_of(METHODS["ListInfluenceJobs"])
        for each in (None, "eif_unknown-token", token):
            await outcome(influence, "ListInfluenceJobs", request, each)
        grant(secured, influence.root, "read")
        await outcome(influence, "ListInfluenceJobs", request, token)
        secured.revoke("nightly")
        await outcome(influence, "ListInfluenceJobs", request, token)
    lines = [vars(record)["fields"] for record in caplog.records if record.name == "eif.calls"]
    assert [(line["code"], line.get("reason"), line.get("identity")) for line in lines] == [
        ("UNAUTHENTICATED", "CREDENTIALS_MISSING", None),
        ("UNAUTHENTICATED", "CREDENTIALS_INVALID", None),
        ("PERMISSION_DENIED", "ACCESS_DENIED", "token:nightly"),
        ("OK", None, "token:nightly"),
        ("UNAUTHENTICATED", "CREDENTIALS_INVALID", None),
    ]
    text = "\n".join(json.loads(JsonFormatter().format(record))["message"] for record in caplog.records)
    for secret in (token, "eif_unknown-token", "BEGIN"):
        assert secret not in text
        assert all(secret not in str(vars(record)) for record in caplog.records)


async def test_a_large_request_of_nobody_is_refused_without_reading_it(tmp_path: Path, secured: Secured) -> None:
    """The refusal comes although the request never ends."""
    async with server(tmp_path, secured) as influence, secured.connect()(influence.address) as channel:
        method: Any = channel.stream_unary(f"/{SERVICE.full_name}/EvaluateAudit")
        call = method(timeout=20)
        assert (await refusal(call)).reason == "CREDENTIALS_MISSING"


async def test_beyond_the_limit_calls_are_refused_with_a_delay_and_streams_are_counted_apart(
    tmp_path: Path, secured: Secured
) -> None:
    token = secured.token("nightly")
    async with server(tmp_path, secured, max_streams=2) as influence:
        grant(secured, influence.root, "read", "write")
        create = service_pb2.CreateInfluenceJobRequest(parent="projects/p", influence_job=influence.rank_job(FOREVER))
        job = await influence.stub.CreateInfluenceJob(create, metadata=bearer(token))
        request = service_pb2.WatchInfluenceJobRequest(name=job.name)
        watches = [influence.stub.WatchInfluenceJob(request, metadata=bearer(token)) for _ in range(2)]
        for watch in watches:
            await watch.read()
        full = await outcome(influence, "WatchInfluenceJob", request, token)
        assert full is not None
        assert (full.code, full.reason) == (CODE.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS")
        assert full.details["RetryInfo"].retry_delay.seconds >= 1
        get = service_pb2.GetInfluenceJobRequest(name=job.name)
        assert await outcome(influence, "GetInfluenceJob", get, token) is None
        watches.pop().cancel()
        async with asyncio.timeout(20):
            while (await outcome(influence, "WatchInfluenceJob", request, token)) is not None:  # noqa: ASYNC110  polled
                await asyncio.sleep(0.01)
