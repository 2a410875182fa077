"""Calls of tests that expect servers to go away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import grpc
from eif.influence.v1 import influence_service_pb2 as service_pb2
from eif.influence.v1 import job_pb2

from tests.influence_process import InfluenceProcess
from tests.robustness.rows import RowsDigest
from tests.robustness.traffic import reason_of

PARENT = "projects/p"


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """How a call failed."""

    code: grpc.StatusCode
    reason: str


def refusal(call: Callable[[], object]) -> Refusal | None:
    """How a call fails; None when it does not."""
    try:
        call()
    except grpc.RpcError as error:
        return Refusal(code=error.code(), reason=reason_of(error))
    return None


def listed(server: InfluenceProcess) -> list[job_pb2.InfluenceJob]:
    """Every job of the project, newest first."""
    jobs: list[job_pb2.InfluenceJob] = []
    token = ""
    while True:
        request = service_pb2.ListInfluenceJobsRequest(parent=PARENT, page_size=100, page_token=token)
        page = server.stub.ListInfluenceJobs(request, timeout=60)
        jobs += page.influence_jobs
        token = page.next_page_token
        if not token:
            return jobs


@dataclass
class Reader:
    """Reads a ranking, from one server after the other.

    Attributes:
        name: Of the job.
        chunks: Read so far.
    """

    name: str
    chunk_rows: int = 50
    chunks: int = 0
    _token: str = ""
    _digest: RowsDigest = field(default_factory=RowsDigest)

    def read(self, server: InfluenceProcess, *, most: int | None = None, then: Callable[[], object] = bool) -> None:
        """Go on where it was, to the end or for so many chunks; `then` is called after each. Raises RpcError."""
        request = service_pb2.StreamRankedSamplesRequest(
            name=self.name, chunk_rows=self.chunk_rows, resume_token=self._token
        )
        call = server.stub.StreamRankedSamples(request, timeout=60)
        try:
            for number, chunk in enumerate(call, start=1):
                self._digest.add(chunk)
                self._token = chunk.resume_token
                self.chunks += 1
                then()
                if number == most:
                    return
        finally:
            call.cancel()

    def digest(self) -> str:
        """Of all rows so far, in their order."""
        return self._digest.hexdigest()
