"""The influence service as a process of its own, which a test can kill and start again on the same state."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from eif.influence.v1 import influence_service_pb2 as service_pb2
from eif.influence.v1 import influence_service_pb2_grpc, job_pb2

from tests.conftest import REPO

START_S = 60.0
CALL_S = 60.0
_SCRIPTED = """
import sys
{prelude}
from services.influence.__main__ import main
sys.exit(main(job_command=(sys.executable, "tests/job_program.py")))
"""


class InfluenceProcess:
    """A service that runs, and a client of it.

    Args:
        folder: `store` in it is the object store.
        scripted: Jobs follow a script (tests/job_program.py); else they are real.
        state: Name of the state folder in it; servers that run at the same time have one each.
        prelude: Python that a scripted server runs first.
        results: URI under which results go; `store/results` in the folder when not given.
        environ: More settings.
    """

    def __init__(
        self,
        folder: Path,
        *,
        scripted: bool = True,
        state: str = "state",
        prelude: str = "",
        results: str = "",
        **environ: str,
    ) -> None:
        self.folder = folder
        self._results = results or f"file://{folder}/store/results"
        self.state_dir = folder / state
        self.log = folder / ("server.log" if state == "state" else f"server-{state}.log")
        (folder / "store").mkdir(exist_ok=True)
        ready_file = folder / f"ready-{time.monotonic_ns()}"
        program = ["-c", _SCRIPTED.format(prelude=prelude)] if scripted else ["-m", "services.influence"]
        started = time.monotonic()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *program, *self._arguments(ready_file)],
                cwd=REPO,
                env={**os.environ, "PYTHONPATH": str(REPO), "EIF_STORAGE_FILE_ROOTS": str(folder), **environ},
                stdout=log,
                stderr=log,
            )
        self.address = self._wait(ready_file)
        self.start_s = time.monotonic() - started
        self.channel = grpc.insecure_channel(self.address)
        self.stub = influence_service_pb2_grpc.InfluenceServiceStub(self.channel)

    def create(self, job: job_pb2.InfluenceJob, **fields: Any) -> job_pb2.InfluenceJob:
        request = service_pb2.CreateInfluenceJobRequest(parent="projects/p", influence_job=job, **fields)
        return self.stub.CreateInfluenceJob(request, timeout=CALL_S)

    def get(self, job: job_pb2.InfluenceJob) -> job_pb2.InfluenceJob:
        return self.stub.GetInfluenceJob(service_pb2.GetInfluenceJobRequest(name=job.name), timeout=CALL_S)

    def cancel(self, job: job_pb2.InfluenceJob) -> job_pb2.InfluenceJob:
        return self.stub.CancelInfluenceJob(service_pb2.CancelInfluenceJobRequest(name=job.name), timeout=CALL_S)

    def watch(self, job: job_pb2.InfluenceJob) -> Iterator[job_pb2.InfluenceJob]:
        """The job at every change, to its end."""
        call = self.stub.WatchInfluenceJob(service_pb2.WatchInfluenceJobRequest(name=job.name), timeout=2 * CALL_S)
        try:
            for event in call:
                yield event.influence_job
        finally:
            call.cancel()

    def ended(self, job: job_pb2.InfluenceJob) -> job_pb2.InfluenceJob:
        """The job at its end."""
        return list(self.watch(job))[-1]

    def kill(self) -> None:
        """As kill -9 does."""
        self.process.kill()
        self.close()

    def terminate(self) -> int:
        """As an orderly stop does; the exit code."""
        self.process.terminate()
        code = self.process.wait(60)
        self.close()
        return code

    def close(self) -> None:
        self.process.wait(60)
        self.channel.close()

    def _arguments(self, ready_file: Path) -> list[str]:
        return [
            *("--listen", "127.0.0.1:0"),
            *("--state-dir", str(self.state_dir)),
            *("--output-uri-prefix", self._results),
            *("--ready-file", str(ready_file)),
        ]

    def _wait(self, ready_file: Path) -> str:
        deadline = time.monotonic() + START_S
        while not ready_file.exists():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, "the server did not start in time"
            time.sleep(0.005)
        facts = json.loads(ready_file.read_text())
        self.ops_address: str = facts.get("ops_address", "")
        address: str = facts["address"]
        return address


@contextmanager
def influence_process(folder: Path, *, scripted: bool = True, **options: str) -> Iterator[InfluenceProcess]:
    """A service that is ended with the block, if it has not ended before."""
    running = InfluenceProcess(folder, scripted=scripted, **options)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.kill()
