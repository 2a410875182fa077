"""Real jobs whose objects lie on a real S3 server, reached through a proxy that may misbehave."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from services.common.settings import StorageSettings
from services.influence.spec import Artifact, JobRequest, RankSpec
from tests.job_world import JobWorld
from tests.s3_proxy import Fault, Request, S3Proxy, calm
from tests.stores import s3_place
from tests.weed import Weed
from tests.worker_process import WorkerProcess

TRAIN, TEST = 60, 24
Tables = dict[str, bytes]


class S3World(JobWorld):
    """Objects on S3, written and read past the proxy, and jobs that reach them through it."""

    def __init__(self, folder: Path, weed: Weed, proxy: S3Proxy) -> None:
        super().__init__(folder)
        self.place, self.weed, self.proxy = s3_place(weed), weed, proxy
        self.store = self.place.store
        self.spec = self.rank_spec(train=TRAIN, test=TEST)

    def put(self, key: str, data: bytes) -> str:
        return self.store.put(self.place.uri(key), data).uri

    def bundle(self, name: str = "model", **options: Any) -> Artifact:
        made = super().bundle(name, **options)
        for path in (self.folder / "objects" / name).iterdir():
            self.put(f"{name}/{path.name}", path.read_bytes())
        return made

    @contextmanager
    def job(
        self, spec: RankSpec | None = None, *, storage: StorageSettings | None = None, patience_s: float = 300.0
    ) -> Iterator[WorkerProcess]:
        """A process of a job that finds nothing kept from others."""
        self.proxy.rule = calm
        request = self.request(spec or self.spec)
        folder = self.folder / request.uid
        environ = {
            "EIF_INFLUENCE_CACHE_URI_PREFIX": self.place.uri(f"cache-{uuid.uuid4().hex}"),
            "EIF_INFLUENCE_STORAGE_PATIENCE_S": str(patience_s),
        }
        with WorkerProcess(folder, request, storage or self.through_proxy(), environ=environ) as worker:
            yield worker
        self.proxy.rule = calm
        self.proxy.faults.clear()

    def through_proxy(self) -> StorageSettings:
        """How a job reaches the objects."""
        return self.weed.settings(endpoint=self.proxy.endpoint)

    def tables(self, worker: WorkerProcess) -> Tables:
        """What a job has written, which must have succeeded."""
        assert worker.wait(timeout=120) == 0, worker.log()
        result = self.result(worker.last)  # type: ignore[arg-type]  # checked there
        return {name: result.bytes(name) for name in result.manifest.tables}

    def left(self, request: JobRequest) -> list[str]:
        """Names of what lies in the folder of a job's result."""
        return self.left_of(request.uid)

    def left_of(self, uid: str) -> list[str]:
        """The same, by the uid of the job."""
        prefix = self.place.uri(f"out/{uid}/")
        return [info.uri.removeprefix(prefix) for info in self.store.list(prefix)]

    def asked(self, method: str, end: str) -> int:
        """How often an object has been asked for so far."""
        asked = (Request(method=method, path=path, access_key="") for method, path in self.proxy.requests)
        return sum(is_for(request, method, end) for request in asked)


class Outage:
    """A rule: from the first request of an object on, every request meets the fault for so long.

    Args:
        fault: What they meet.
        method: Of the first one.
        end: Of its path.
        seconds: How long.
    """

    def __init__(self, fault: Fault, *, method: str, end: str, seconds: float) -> None:
        self._fault, self._method, self._end, self._seconds = fault, method, end, seconds
        self.begun = threading.Event()
        self._begun_at = 0.0

    def __call__(self, request: Request) -> Fault:
        if not self.begun.is_set() and is_for(request, self._method, self._end):
            self._begun_at = time.monotonic()
            self.begun.set()
        on = self.begun.is_set() and time.monotonic() < self._begun_at + self._seconds
        return self._fault if on else Fault()


def is_for(request: Request, method: str, end: str) -> bool:
    """Whether a request is for an object whose path ends so."""
    return request.method == method and request.path.partition("?")[0].endswith(end)
