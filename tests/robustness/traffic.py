"""Clients that create, follow, read, cancel and delete jobs on whichever server answers, and note all of it."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import grpc
from eif.influence.v1 import influence_service_pb2 as service_pb2
from eif.influence.v1 import influence_service_pb2_grpc, job_pb2
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from tests.robustness.history import OK, Event, History, Operation, Plan
from tests.robustness.model import AWAY, ENDED
from tests.robustness.rows import RowsDigest

CALL_S = 4.0
PAUSE_S = 0.05
PARENT = "projects/p"

Addresses = Callable[[], list[str]]
"""Of the servers that are running now, or that were a moment ago."""


class Client(threading.Thread):
    """One client, until it is told to stop.

    Args:
        seed: Decides what it does.
        addresses: Where servers may be.
        jobs: A job of each plan.
        history: Takes what it sees.
        names: Jobs that some client has made, shared by all.
    """

    def __init__(
        self,
        seed: int,
        *,
        addresses: Addresses,
        jobs: Mapping[Plan, job_pb2.InfluenceJob],
        history: History,
        names: list[str],
    ) -> None:
        super().__init__(name=f"client-{seed}")
        self._random, self._addresses, self._jobs, self._history = random.Random(seed), addresses, jobs, history
        self._names = names
        self._stop_asked = threading.Event()
        self._channels: dict[str, grpc.Channel] = {}
        self.problem: BaseException | None = None
        self._refused = False

    def stop(self) -> None:
        """Ask it to end after what it is doing."""
        self._stop_asked.set()

    def run(self) -> None:
        """Do one thing after the other."""
        actions = [(self.create, 3), (self.get, 4), (self.list, 1), (self.watch, 2), (self.stream, 2)]
        actions += [(self.cancel, 1), (self.delete, 1)]
        choices, weights = zip(*actions, strict=True)
        try:
            while not self._stop_asked.is_set():
                action = self._random.choices(choices, weights)[0] if self._names else self.create
                action()
                self._stop_asked.wait(self._random.uniform(0, PAUSE_S))
        except BaseException as error:  # noqa: BLE001  the test that started the thread raises it
            self.problem = error
        finally:
            for channel in self._channels.values():
                channel.close()

    def create(self) -> None:
        """Make a job, however often that takes; sometimes once more with the same request."""
        plan, request_id = self._random.choice(list(Plan)), str(uuid.UUID(int=self._random.getrandbits(128), version=4))
        request = service_pb2.CreateInfluenceJobRequest(
            parent=PARENT, influence_job=self._jobs[plan], request_id=request_id
        )
        left = 1 + (self._random.random() < 0.3)
        while left and not self._stop_asked.is_set():
            fields: dict[str, Any] = {"plan": str(plan), "request_id": request_id}
            made = self._call(Operation.CREATE, lambda stub: stub.CreateInfluenceJob(request, timeout=CALL_S), **fields)
            if made is not None:
                left -= 1
                self._names.append(made.name)
            elif self._refused:  # there are enough
                return
            else:
                self._stop_asked.wait(PAUSE_S)

    def get(self, name: str | None = None) -> job_pb2.InfluenceJob | None:
        """Look at a job."""
        request = service_pb2.GetInfluenceJobRequest(name=name or self._some())
        job: job_pb2.InfluenceJob | None = self._call(
            Operation.GET, lambda stub: stub.GetInfluenceJob(request, timeout=CALL_S), name=request.name
        )
        return job

    def list(self) -> None:
        """Look at the newest jobs."""
        begun = time.monotonic()
        request = service_pb2.ListInfluenceJobsRequest(parent=PARENT, page_size=20)
        listed = self._call(Operation.LIST, lambda stub: stub.ListInfluenceJobs(request, timeout=CALL_S))
        for job in [] if listed is None else listed.influence_jobs:
            self._note(Operation.LIST, begun, job)

    def watch(self) -> None:
        """Follow a job for a while."""
        request = service_pb2.WatchInfluenceJobRequest(name=self._some())
        begun = time.monotonic()

        def follow(stub: influence_service_pb2_grpc.InfluenceServiceStub) -> None:
            call = stub.WatchInfluenceJob(request, timeout=CALL_S)
            try:
                for event in call:
                    self._note(Operation.WATCH, begun, event.influence_job)
                    if self._random.random() < 0.1:
                        return
            finally:
                call.cancel()

        self._call(Operation.WATCH, follow, name=request.name)

    def stream(self, name: str | None = None) -> None:
        """Read the ranking of a job, going on after each break, and note a digest of all rows."""
        name = name or self._some()
        request, digest = service_pb2.StreamRankedSamplesRequest(name=name, chunk_rows=50), RowsDigest()

        def read(stub: influence_service_pb2_grpc.InfluenceServiceStub) -> str:
            call = stub.StreamRankedSamples(request, timeout=CALL_S)
            try:
                for chunk in call:
                    digest.add(chunk)
                    request.resume_token = chunk.resume_token
                    if self._random.random() < 0.01:
                        break  # as a client does that is killed; the next one goes on
                else:
                    return digest.hexdigest()
            finally:
                call.cancel()
            return ""

        for _ in range(20):
            begun = time.monotonic()
            found = self._call(Operation.STREAM, read, name=request.name)
            if found:
                end = time.monotonic()
                self._history.add(
                    Event(operation=Operation.STREAM, begun=begun, ended=end, outcome=OK, name=request.name, rows=found)
                )
            if found or self._refused or self._stop_asked.is_set():
                return

    def cancel(self) -> None:
        """Ask a job to stop."""
        request = service_pb2.CancelInfluenceJobRequest(name=self._some())
        self._call(Operation.CANCEL, lambda stub: stub.CancelInfluenceJob(request, timeout=CALL_S), name=request.name)

    def delete(self) -> None:
        """Remove a job, if it has ended."""
        request = service_pb2.DeleteInfluenceJobRequest(name=self._some())
        self._call(Operation.DELETE, lambda stub: stub.DeleteInfluenceJob(request, timeout=CALL_S), name=request.name)

    def settled(self, name: str) -> bool:
        """Whether a job has come to its end, or is gone; an answer is needed."""
        job = self.get(name)
        return self._refused or (
            job is not None and job_pb2.JobState.Name(job.state).removeprefix("JOB_STATE_") in ENDED
        )

    def _some(self) -> str:
        return self._random.choice(self._names[-60:])

    def _call(self, operation: Operation, call: Callable[[Any], Any], **fields: Any) -> Any:
        """Make a call on some server and note what came of it; None where it failed."""
        begun, self._refused = time.monotonic(), False
        try:
            answer = call(self._stub())
        except grpc.RpcError as error:
            code: str = error.code().name
            self._refused = code not in AWAY
            self._add(operation, begun, outcome=code, reason=reason_of(error), **fields)
            return None
        if isinstance(answer, job_pb2.InfluenceJob):
            self._note(operation, begun, answer, **fields)
        elif operation in {Operation.DELETE, Operation.LIST}:
            self._add(operation, begun, outcome=OK, **fields)
        return answer

    def _note(self, operation: Operation, begun: float, job: job_pb2.InfluenceJob, **fields: Any) -> None:
        seen = fields | {"name": job.name, "uid": job.uid, "state": state_of(job), "error": error_of(job)}
        self._add(operation, begun, outcome=OK, **seen)

    def _add(self, operation: Operation, begun: float, **fields: Any) -> None:
        self._history.add(Event(operation=operation, begun=begun, ended=time.monotonic(), **fields))

    def _stub(self) -> influence_service_pb2_grpc.InfluenceServiceStub:
        address = self._random.choice(self._addresses())
        if address not in self._channels:
            self._channels[address] = grpc.insecure_channel(address)
        return influence_service_pb2_grpc.InfluenceServiceStub(self._channels[address])


def state_of(job: job_pb2.InfluenceJob) -> str:
    """Without its prefix."""
    return job_pb2.JobState.Name(job.state).removeprefix("JOB_STATE_")


def error_of(job: job_pb2.InfluenceJob) -> str:
    """The reason for which it failed; empty where it did not."""
    info = error_details_pb2.ErrorInfo()
    return info.reason if any(detail.Unpack(info) for detail in job.error.details) else ""


def reason_of(error: grpc.RpcError) -> str:
    """Of its ErrorInfo; empty where it has none."""
    info = error_details_pb2.ErrorInfo()
    with suppress(ValueError):
        status = rpc_status.from_call(error)  # type: ignore[arg-type]  # has what is needed of a call
        if status is not None and any(detail.Unpack(info) for detail in status.details):
            return info.reason
    return ""
