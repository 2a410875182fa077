"""Several servers on one database and one object store, each a process with a state folder of its own."""

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
from tests.objects import LocalObjects, Objects
from tests.postgres import Postgres

LEASE_S = 4.0
"""Short, so that tests see leases end."""

Step = dict[str, Any]


class Servers:
    """What servers share, and those that run.

    Args:
        folder: For state folders and logs.
        url: Of the database.
        stack: Ends the servers.
        objects: The object store; `store` in the folder when not given.
    """

    def __init__(self, folder: Path, url: str, stack: ExitStack, objects: Objects | None = None) -> None:
        self.folder = folder
        self.objects: Objects = objects or LocalObjects(folder / "store")
        self.url = url
        self._stack = stack

    def start(self, name: str, *, prelude: str = "", **options: str) -> InfluenceProcess:
        """Start a server; one of a name that was there before goes on with its state folder."""
        settings = {"EIF_INFLUENCE_DATABASE_URL": self.url, "EIF_INFLUENCE_LEASE_S": str(LEASE_S)}
        return self._stack.enter_context(
            influence_process(
                self.folder,
                scripted=True,
                state=name,
                prelude=prelude,
                results=f"{self.objects.base}/results",
                **(settings | self.objects.environ | options),
            )
        )

    def job(self, *steps: Step, train: str = "train.jsonl") -> job_pb2.InfluenceJob:
        """A rank job whose process follows the steps."""
        texts = {"model.json": "{}", "test.csv": "", train: json.dumps(steps)}
        refs = {name: job_pb2.ArtifactRef(uri=self.objects.put(name, text)) for name, text in texts.items()}
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
        return self.objects.below(f"results/{job.uid}")


@contextmanager
def servers_on(postgres: Postgres, folder: Path, objects: Objects | None = None) -> Iterator[Servers]:
    """Servers on a new database; all are ended with the block."""
    with ExitStack() as stack:
        yield Servers(folder, postgres.create(f"jobs_{uuid.uuid4().hex}"), stack, objects)


def until(condition: Callable[[], object], *, within_s: float = 60.0) -> None:
    """Return once `condition` holds."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen within {within_s:g} s"
        time.sleep(0.02)


def lines(path: Path) -> list[str]:
    """What job processes have noted in a file so far."""
    return path.read_text().splitlines() if path.exists() else []
