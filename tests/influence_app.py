"""The influence service in the process of a test, with real job processes that follow a script, see job_program.py."""

from __future__ import annotations

import json
import os
import sys
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
import pyarrow.parquet as pq
from eif.influence.v1 import influence_service_pb2 as service_pb2
from eif.influence.v1 import influence_service_pb2_grpc, job_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from services.common.protection import protection_of
from services.common.server import start_server
from services.common.settings import StorageSettings
from services.common.storage.router import open_store
from services.influence.access import RULES
from services.influence.app import InfluenceApp, local_runner
from services.influence.converters import DOMAIN
from services.influence.servicer import NAME
from services.influence.settings import InfluenceSettings
from services.influence.state_lock import hold_state_dir
from services.influence.tables import SCHEMAS
from tests.conftest import REPO

PROGRAM = (sys.executable, str(REPO / "tests" / "job_program.py"))
PARENT = "projects/p"
ENDED = {job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_CANCELLED}

Step = dict[str, Any]
Change = Callable[[job_pb2.InfluenceJob], object]
"""Changes a job that is to be created."""

RANKING = {
    "query_id": ["all"] * 3,
    "rank": [1, 2, 3],
    "sample_id": ["a", "b", "c"],
    "label": ["x", "y", "x"],
    "score": [2.0, 0.0, -1.0],
}
SUCCEED: Step = {"do": "succeed", "tables": {"ranking": RANKING}}
FOREVER: Step = {"do": "forever"}


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """How a call failed."""

    code: grpc.StatusCode
    message: str
    reason: str
    metadata: dict[str, str]
    details: dict[str, Any]


async def refusal(call: Awaitable[object]) -> Refusal:
    """Await a call that must fail with google.rpc.Status and ErrorInfo of this service."""
    try:
        result = await call
    except grpc.aio.AioRpcError as error:
        return refusal_of(error)
    raise AssertionError(f"the call should have failed, but gave {result}")


def refusal_of(error: grpc.aio.AioRpcError) -> Refusal:
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # has what is needed of a call
    assert status is not None, error
    return refusal_in(status)


def refusal_in(status: status_pb2.Status) -> Refusal:
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    details: dict[str, Any] = {}
    for detail in status.details:
        for message in (info, retry):
            if detail.Unpack(message):
                details[message.DESCRIPTOR.name] = message
    assert info.domain == "influence.eif.dev"
    code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
    return Refusal(code=code, message=status.message, reason=info.reason, metadata=dict(info.metadata), details=details)


@dataclass(frozen=True, kw_only=True)
class Influence:
    """A service that runs, a client of it, and a folder that is its object store."""

    stub: influence_service_pb2_grpc.InfluenceServiceAsyncStub
    app: InfluenceApp
    root: Path
    state_dir: Path
    address: str

    def put(self, name: str, data: bytes | str = b"") -> str:
        """Store an object and return its URI."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return f"file://{path}"

    def script(self, *steps: Step, name: str = "train.jsonl") -> str:
        """Store what the job process shall do, where it looks for the train manifest."""
        return self.put(name, json.dumps([self._prepared(step) for step in steps]))

    def _prepared(self, step: Step) -> Step:
        """The step with its tables written to files: job processes start faster when they need no pyarrow."""
        if step["do"] != "succeed":
            return step
        tables = {name: step["tables"].get(name, {}) for name in {*step["tables"], "quarantine"}}
        return {**step, "tables": {name: self._write(name, columns) for name, columns in tables.items()}}

    def _write(self, name: str, columns: dict[str, list[Any]]) -> Step:
        schema = SCHEMAS[name]
        table = pa.table({field.name: columns.get(field.name, []) for field in schema}, schema=schema)
        path = self.root / "prepared" / f"{uuid.uuid4()}.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(table, path)
        return {"path": str(path), "rows": table.num_rows}

    def rank_job(self, *steps: Step, train: str = "train.jsonl", **fields: Any) -> job_pb2.InfluenceJob:
        """A rank job whose process follows the steps."""
        spec = job_pb2.RankSpec(
            model=job_pb2.ArtifactRef(uri=self.put("model/model.json", "{}")),
            train_manifest=job_pb2.ArtifactRef(uri=self.script(*steps, name=train)),
            test_manifest=job_pb2.ArtifactRef(uri=self.put("test.csv")),
        )
        return job_pb2.InfluenceJob(rank=spec, **fields)

    def relabel_job(self, *steps: Step, **fields: Any) -> job_pb2.InfluenceJob:
        """A relabel job whose process follows the steps."""
        spec = job_pb2.RelabelSpec(
            model=job_pb2.ArtifactRef(uri=self.put("model/model.json", "{}")),
            train_manifest=job_pb2.ArtifactRef(uri=self.script(*steps, name="relabel.jsonl")),
        )
        return job_pb2.InfluenceJob(relabel=spec, **fields)

    async def create(self, job: job_pb2.InfluenceJob, **fields: Any) -> job_pb2.InfluenceJob:
        return await self.stub.CreateInfluenceJob(
            service_pb2.CreateInfluenceJobRequest(parent=PARENT, influence_job=job, **fields)
        )

    async def run(self, *steps: Step, **fields: Any) -> job_pb2.InfluenceJob:
        """Create a rank job and wait for its end."""
        return await self.ended(await self.create(self.rank_job(*steps), **fields))

    async def get(self, job: job_pb2.InfluenceJob) -> job_pb2.InfluenceJob:
        return await self.stub.GetInfluenceJob(service_pb2.GetInfluenceJobRequest(name=job.name))

    async def cancel(self, job: job_pb2.InfluenceJob) -> job_pb2.InfluenceJob:
        return await self.stub.CancelInfluenceJob(service_pb2.CancelInfluenceJobRequest(name=job.name))

    async def delete(self, job: job_pb2.InfluenceJob, **fields: Any) -> None:
        await self.stub.DeleteInfluenceJob(service_pb2.DeleteInfluenceJobRequest(name=job.name, **fields))

    async def events(self, job: job_pb2.InfluenceJob) -> AsyncGenerator[service_pb2.InfluenceJobEvent, None]:
        """What a watch of the job sees."""
        call = self.stub.WatchInfluenceJob(service_pb2.WatchInfluenceJobRequest(name=job.name))
        try:
            async for event in call:
                yield event
        finally:
            call.cancel()

    async def until(self, job: job_pb2.InfluenceJob, *states: int) -> job_pb2.InfluenceJob:
        """Wait until a job is in one of these states."""
        async with aclosing(self.events(job)) as events:
            async for event in events:
                if event.influence_job.state in states:
                    return event.influence_job
        raise AssertionError(f"{job.name} ended in another state")

    async def ended(self, job: job_pb2.InfluenceJob) -> job_pb2.InfluenceJob:
        """Wait for the end of a job."""
        return await self.until(job, *ENDED)


@asynccontextmanager
async def running_influence(
    tmp_path: Path, *, connect: Callable[[str], grpc.aio.Channel] = grpc.aio.insecure_channel, **settings: Any
) -> AsyncIterator[Influence]:
    """A service on a state folder and an object store under `tmp_path`; drained at the end."""
    root, state_dir = tmp_path / "store", tmp_path / "state"
    root.mkdir(exist_ok=True)
    storage = StorageSettings(file_roots=(root,))
    values: dict[str, Any] = {"output_uri_prefix": f"file://{root}/results", "cancel_grace_s": 2.0, **settings}
    influence_settings = InfluenceSettings(state_dir=state_dir, **values)
    environ = {**os.environ, "PYTHONPATH": str(REPO)}
    with hold_state_dir(state_dir):
        app = InfluenceApp(
            influence_settings,
            store=open_store(storage),
            runner=local_runner(influence_settings, storage, environ, command=PROGRAM),
            uri_schemes=storage.schemes,
        )
        register = partial(influence_service_pb2_grpc.add_InfluenceServiceServicer_to_server, app.servicer)
        protection = protection_of(influence_settings, rules=RULES, domain=DOMAIN)
        running = await start_server(
            listen="127.0.0.1:0", services={NAME: register}, protection=protection, stopping=app.stopping
        )
        await app.start()
        async with connect(running.address) as channel:
            stub = influence_service_pb2_grpc.InfluenceServiceStub(channel)
            yield Influence(stub=stub, app=app, root=root, state_dir=state_dir, address=running.address)
            running.stopping.set()
            await app.drain()
            await running.drain(grace=1)
        app.close()
