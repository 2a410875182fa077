"""Every method of both services under random and malformed messages: each call is answered, and the process lives.

What a call may be answered with is what the service documents; nothing else, INTERNAL and UNKNOWN least of all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil
import pytest
from eif.embedding.v1 import embedding_service_pb2 as embedding_pb2
from eif.influence.v1 import influence_service_pb2 as influence_pb2
from eif.influence.v1 import job_pb2
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.embedding_server import running_embedding
from tests.influence_process import InfluenceProcess
from tests.messages import messages
from tests.stores import local_place

INFLUENCE = influence_pb2.DESCRIPTOR.services_by_name["InfluenceService"]
EMBEDDING = embedding_pb2.DESCRIPTOR.services_by_name["EmbeddingService"]
METHODS = [(service, method) for service in (INFLUENCE, EMBEDDING) for method in service.methods]
REFUSED = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
STREAMED = 20
"""Messages that are read of one stream; a watch of a job that never ends is left after its first."""
GROWTH_BYTES = 64 << 20
TOO_LARGE = "SERVER: Received message larger than max"
"""Said by gRPC itself, before our code."""
CALL_S = 20.0


@dataclass(frozen=True)
class Target:
    """A server process, and a channel to it."""

    service: ServiceDescriptor
    pid: int
    channel: grpc.Channel
    texts: tuple[str, ...]

    def call(self, method: MethodDescriptor, request: bytes) -> grpc.StatusCode:
        """Send bytes; the code of the answer, whose details are checked."""
        path = f"/{self.service.full_name}/{method.name}"
        call = self.channel.unary_stream(path, lambda data: data, lambda data: data)(request, timeout=CALL_S)
        try:
            for number, _ in enumerate(call, start=1):
                if number == STREAMED or method.name.startswith("Watch"):
                    return grpc.StatusCode.OK
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            if code in REFUSED and not (error.details() or "").startswith(TOO_LARGE):
                _check_details(error)
            return code
        finally:
            call.cancel()
        return grpc.StatusCode.OK


def _check_details(error: grpc.RpcError) -> None:
    """An ErrorInfo with a reason, and nothing twice."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # has what is needed of a call
    assert status is not None, error
    info = error_details_pb2.ErrorInfo()
    assert sum(detail.Unpack(info) for detail in status.details) == 1
    assert info.reason
    assert info.domain.endswith("eif.dev")
    assert len({detail.type_url for detail in status.details}) == len(status.details)
    assert "Traceback" not in status.message


@pytest.fixture(scope="module")
def influence(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    running = InfluenceProcess(tmp_path_factory.mktemp("influence"), EIF_INFLUENCE_MAX_PENDING_JOBS="20")
    try:
        job = running.create(_job(running.folder))
        texts = (
            job.name,
            "projects/p",
            f"{job.name}/",
            job.rank.model.uri,
            job.rank.train_manifest.uri,
            "all",
            "ranking",
        )
        yield Target(INFLUENCE, running.process.pid, running.channel, texts)
    finally:
        running.kill()


def _job(folder: Path) -> job_pb2.InfluenceJob:
    """A job that never ends."""
    store = folder / "store"
    (store / "train.jsonl").write_text('[{"do": "forever"}]')
    for name in ("model.json", "test.csv"):
        (store / name).write_text("")
    model, train, test = (
        job_pb2.ArtifactRef(uri=(store / name).as_uri()) for name in ("model.json", "train.jsonl", "test.csv")
    )
    return job_pb2.InfluenceJob(rank=job_pb2.RankSpec(model=model, train_manifest=train, test_manifest=test))


@pytest.fixture(scope="module")
def embedding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("embedding")
    (folder / "store").mkdir()
    with running_embedding(local_place(folder / "store"), folder / "state") as running:
        texts = ("projects/p", "projects/p/models/m", "projects/p/indexes/i", "m", "i")
        yield Target(EMBEDDING, running.process.pid, running.channel, texts)


@pytest.fixture
def target(request: pytest.FixtureRequest, service: ServiceDescriptor) -> Iterator[Target]:
    """The server of a service, which is alive and has not grown when the calls are over."""
    found: Target = request.getfixturevalue("influence" if service is INFLUENCE else "embedding")
    process = psutil.Process(found.pid)
    before = process.memory_info().rss
    yield found
    assert process.is_running()
    info = next(method for method in service.methods if method.name == "GetServerInfo")
    assert found.call(info, b"") is grpc.StatusCode.OK
    assert process.memory_info().rss - before < GROWTH_BYTES


CALM = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
NAMES = [f"{service.name}-{method.name}" for service, method in METHODS]


@pytest.mark.parametrize(("service", "method"), METHODS, ids=NAMES)
@CALM
@given(data=st.data())
def test_random_requests_are_answered(target: Target, method: MethodDescriptor, data: st.DataObject) -> None:
    request = data.draw(messages(method.input_type, texts=target.texts))
    assert target.call(method, request.SerializeToString()) in {grpc.StatusCode.OK, *REFUSED}


@pytest.mark.parametrize(("service", "method"), METHODS, ids=NAMES)
@CALM
@given(request=st.binary(max_size=200))
def test_bytes_that_are_no_request_are_refused(target: Target, method: MethodDescriptor, request: bytes) -> None:
    try:
        GetMessageClass(method.input_type).FromString(request)
    except DecodeError:
        assert target.call(method, request) is grpc.StatusCode.INVALID_ARGUMENT
    else:
        assert target.call(method, request) in {grpc.StatusCode.OK, *REFUSED}


@pytest.mark.parametrize(("service", "method"), METHODS, ids=NAMES)
def test_a_request_that_is_too_large_is_refused(target: Target, method: MethodDescriptor) -> None:
    request = b"\x7a" + b"\x80\x80\x80\x40" + bytes(128 << 20)  # field 15, which none has, 128 MiB long
    assert target.call(method, request) is grpc.StatusCode.RESOURCE_EXHAUSTED
