"""Several servers on one PostgreSQL and one object store, each a process with a state folder of its own."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from eif.influence.v1 import job_pb2

from tests.influence_process import InfluenceProcess, influence_process
from tests.postgres import Postgres

LEASE_S = 4.0
"""Short, so that tests see leases end."""

Step = dict[str, Any]


class Servers:
    """What servers share, and those that run.

    Args:
        folder: For the object store, state folders and logs.
        url: Of the database.
        stack: Ends the servers.
    """

    def __init__(self, folder: Path, url: str, stack: ExitStack) -> None:
        self.folder = folder
        self.url = url
        self._stack = stack

    def start(self, name: str, *, prelude: str = "", **options: str) -> InfluenceProcess:
        """Start a server; one of a name that was there before goes on with its state folder."""
        settings = {"EIF_INFLUENCE_DATABASE_URL": self.url, "EIF_INFLUENCE_LEASE_S": str(LEASE_S), **options}
        return self._stack.enter_context(
            influence_process(self.folder, scripted=True, state=name, prelude=prelude, **settings)
        )

    def job(self, *steps: Step, train: str = "train.jsonl") -> job_pb2.InfluenceJob:
        """A rank job whose process follows the steps."""
        store = self.folder / "store"
        store.mkdir(exist_ok=True)
        for name, text in (("model.json", "{}"), ("test.csv", ""), (train, json.dumps(steps))):
            (store / name).write_text(text)
        refs = {name: job_pb2.ArtifactRef(uri=f"file://{store}/{name}") for name in ("model.json", "test.csv", train)}
        return job_pb2.InfluenceJob(
            rank=job_pb2.RankSpec(model=refs["model.json"], train_manifest=refs[train], test_manifest=refs["test.csv"])
        )

    def succeed(self, text: str = "a table") -> Step:
        """The step that publishes a result with one table, whose content nobody looks into."""
        path = self.folder / f"prepared-{uuid.uuid4().hex}"
        path.write_text(text)
        return {"do": "succeed", "tables": {"ranking": {"path": str(path), "rows": 1}}}

    def stored(self, job: job_pb2.InfluenceJob) -> dict[str, bytes]:
        """The objects of a job's result, by their names in its folder."""
        folder = self.folder / "store" / "results" / job.uid
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def servers_on(postgres: Postgres, folder: Path) -> Iterator[Servers]:
    """Servers on a new database; all are ended with the block."""
    with ExitStack() as stack:
        yield Servers(folder, postgres.create(f"jobs_{uuid.uuid4().hex}"), stack)


def until(condition: Callable[[], object], *, within_s: float = 60.0) -> None:
    """Return once `condition` holds."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen within {within_s:g} s"
        time.sleep(0.02)


def lines(path: Path) -> list[str]:
    """What job processes have noted in a file so far."""
    return path.read_text().splitlines() if path.exists() else []
