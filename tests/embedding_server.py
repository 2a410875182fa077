"""The real embedding service as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
from eif.embedding.v1 import embedding_service_pb2 as pb
from eif.embedding.v1 import embedding_service_pb2_grpc, resources_pb2
from google.rpc import error_details_pb2
from grpc_status import rpc_status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.rpc import status_pb2

    from tests.stores import Place

PARENT = "projects/test"
START_SECONDS = 60


@dataclass
class EmbeddingProcess:
    """A running server, and a stub for it."""

    process: subprocess.Popen[bytes]
    address: str
    log: Path
    channel: grpc.Channel
    seconds_to_serving: float
    ops_address: str = ""
    stub: embedding_service_pb2_grpc.EmbeddingServiceStub = field(init=False)

    def __post_init__(self) -> None:
        self.stub = embedding_service_pb2_grpc.EmbeddingServiceStub(self.channel)

    def create_model(
        self, uri: str, model_id: str = "m", *, sha256: str = "", request_id: str = ""
    ) -> resources_pb2.Model:
        model = resources_pb2.Model(uri=uri, sha256=sha256)
        request = pb.CreateModelRequest(parent=PARENT, model_id=model_id, model=model, request_id=request_id)
        return self.stub.CreateModel(request, timeout=60)

    def create_index(self, index_id: str, request_id: str = "", **fields: object) -> resources_pb2.Index:
        index = resources_pb2.Index(**{"model": f"{PARENT}/models/m", **fields})  # type: ignore[arg-type]  # any field
        request = pb.CreateIndexRequest(parent=PARENT, index_id=index_id, index=index, request_id=request_id)
        return self.stub.CreateIndex(request, timeout=20)

    def watch(self, index_id: str) -> Iterator[pb.IndexEvent]:
        """Events until the index is READY or FAILED."""
        return iter(self.stub.WatchIndex(pb.WatchIndexRequest(name=f"{PARENT}/indexes/{index_id}"), timeout=60))

    def built(self, index_id: str, **fields: object) -> resources_pb2.Index:
        """Create an index and wait until it is READY or FAILED."""
        self.create_index(index_id, **fields)  # type: ignore[arg-type]  # request_id is a field like the others
        return list(self.watch(index_id))[-1].index

    def alive(self) -> bool:
        """Whether the process answers the next request."""
        return bool(self.stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=5).version)

    def terminate(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.terminate()
        return self.process.wait(30)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def log_lines(self) -> list[dict[str, object]]:
        """What it wrote on standard error; every line must be JSON."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@contextmanager
def running_embedding(place: Place, state: Path, **settings: str) -> Iterator[EmbeddingProcess]:
    """A server over the store of `place`, with its state in `state`, until the block ends; `settings` come first."""
    state.mkdir(parents=True, exist_ok=True)
    ready, log = state / "ready.json", state / "stderr.log"
    ready.unlink(missing_ok=True)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("EIF_")}
    environ |= place.settings.to_environ()
    environ |= {f"EIF_EMBEDDING_{name.upper()}": value for name, value in settings.items()}
    options = {
        "listen": "127.0.0.1:0",
        "state_dir": str(state / "server"),
        "index_uri_prefix": place.uri("indexes"),
        "ready_file": str(ready),
    }
    given = [(f"--{name.replace('_', '-')}", value) for name, value in options.items() if name not in settings]
    command = [sys.executable, "-m", "services.embedding", *(part for option in given for part in option)]
    started = time.monotonic()
    with log.open("ab") as stderr:
        process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=stderr)
    try:
        facts = _wait_until_ready(process, ready, log)
        address = facts["address"]
        seconds = time.monotonic() - started
        with grpc.insecure_channel(address, options=[("grpc.max_send_message_length", -1)]) as channel:
            yield EmbeddingProcess(process, address, log, channel, seconds, facts.get("ops_address", ""))
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)


def _wait_until_ready(process: subprocess.Popen[bytes], ready: Path, log: Path) -> dict[str, str]:
    for _ in range(START_SECONDS * 100):
        if ready.exists():
            facts: dict[str, str] = json.loads(ready.read_text())
            return facts
        if process.poll() is not None:
            raise AssertionError(f"the server ended with {process.returncode}: {log.read_text()}")
        time.sleep(0.01)
    raise AssertionError(f"the server is not ready after {START_SECONDS} s: {log.read_text()}")


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """The status of a refused call in its parts."""

    code: grpc.StatusCode
    reason: str
    domain: str
    message: str
    metadata: dict[str, str]
    retry_seconds: int | None


def refusal_of(error: grpc.RpcError) -> Refusal:
    """What a client sees of an error; it always has ErrorInfo."""
    assert isinstance(error, grpc.Call)
    status = rpc_status.from_call(error)
    assert status is not None, error
    return refusal(status, error.code())


def refusal(status: status_pb2.Status, code: grpc.StatusCode | None = None) -> Refusal:
    """The parts of a google.rpc.Status."""
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info)
    retries = any(detail.Unpack(retry) for detail in status.details[1:])
    return Refusal(
        code=code or next(one for one in grpc.StatusCode if one.value[0] == status.code),
        reason=info.reason,
        domain=info.domain,
        message=status.message,
        metadata=dict(info.metadata),
        retry_seconds=retry.retry_delay.seconds if retries else None,
    )
