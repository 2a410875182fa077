"""Clients, servers and faults at the same time, and a history that the model has nothing against.

Once with objects in a folder, once on a real S3 server to which something happens too. `EIF_SOAK_S` and
`EIF_SOAK_SEED` make it longer and other: `make robustness`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from eif.influence.v1 import job_pb2

from tests.objects import LocalObjects, S3Objects
from tests.postgres import Postgres
from tests.robustness.faults import Cluster, Deck
from tests.robustness.history import OK, Event, History, Operation, Plan
from tests.robustness.model import violations
from tests.robustness.rows import ranking
from tests.robustness.storage_faults import StorageFaults
from tests.robustness.traffic import Client
from tests.s3_proxy import S3Proxy
from tests.servers import Servers, Step, servers_on

SECONDS = float(os.environ.get("EIF_SOAK_S", "30"))
SEED = int(os.environ.get("EIF_SOAK_SEED", "0"))
SHARES = {"folder": 0.3, "s3": 0.7}
"""Of the time."""
SERVERS, CLIENTS = "ab", 4
ROWS = 1_000
QUIET_S = 1.0
"""Between two faults."""
SETTLE_S = 120.0
ENOUGH_A_SECOND = 0.2
"""Jobs that must have come to their end, lest nothing was tried."""
NO_COPIES = {"EIF_INFLUENCE_RESULT_CACHE_BYTES": "0"}
"""Every stream fetches its table, on whatever day the store has."""


logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class World:
    """Where a soak happens.

    Attributes:
        servers: Share a database and an object store.
        jobs: What can be asked for, by what becomes of it.
        digest: Of the rows of every ranking.
        decks: What can be done to it, at the same time.
        cluster: The servers that run.
    """

    servers: Servers
    jobs: dict[Plan, job_pb2.InfluenceJob]
    digest: str
    cluster: Cluster
    decks: list[Deck]


@pytest.mark.timeout(SECONDS + SETTLE_S + 120)
@pytest.mark.parametrize("objects", list(SHARES))
def test_nothing_is_lost_and_nothing_is_done_twice(
    postgres: Postgres, tmp_path: Path, objects: str, request: pytest.FixtureRequest
) -> None:
    history, seconds = History(), SECONDS * SHARES[objects]
    made_world = (
        s3_world(postgres, tmp_path, history, request) if objects == "s3" else folder_world(postgres, tmp_path, history)
    )
    with made_world as world:
        names = soak(world, history, seconds)
        look = Client(SEED, addresses=world.cluster.addresses, jobs=world.jobs, history=history, names=names)
        try:
            settle(look, sorted(set(names)))
            for name in succeeded(history.events):
                look.stream(name)
        finally:
            history.write(tmp_path / "history.jsonl")
        events = history.events
        assert violations(events, rows=world.digest) == [], f"the history is in {tmp_path}"
        assert set(world.cluster.exit_codes) <= {0}
        check_results(world.servers, events)
    made = Counter(event.state for event in {event.uid: event for event in events if event.uid}.values())
    faults = sum((deck.count for deck in world.decks), Counter[str]())
    logger.info("%s: %d calls, jobs %s, faults %s", objects, len(events), dict(made), dict(faults))
    assert made.total() - made["PENDING"] >= ENOUGH_A_SECOND * seconds, (made, faults)
    assert any(event.rows for event in events), "no stream came to its end"


@contextmanager
def folder_world(postgres: Postgres, folder: Path, history: History) -> Iterator[World]:
    """Objects lie in a folder."""
    with servers_on(postgres, folder, LocalObjects(folder / "store")) as servers:
        step, digest = ranking(folder, ROWS)
        jobs = {plan: servers.job(*steps, train=f"{plan.name}.jsonl") for plan, steps in scripts(step).items()}
        cluster = Cluster(servers, postgres, SERVERS, SEED)
        decks = [Deck(cluster.faults, history, SEED)]
        yield World(servers=servers, jobs=jobs, digest=digest, cluster=cluster, decks=decks)


@contextmanager
def s3_world(postgres: Postgres, folder: Path, history: History, request: pytest.FixtureRequest) -> Iterator[World]:
    """Objects lie on an S3 server, to which something happens too."""
    weed = request.getfixturevalue("weed")
    with S3Proxy(weed) as proxy:
        objects = S3Objects(weed, proxy, folder / "credentials")
        with servers_on(postgres, folder, objects) as servers:
            step, digest = ranking(folder, ROWS)
            steps = scripts(step)
            jobs = {plan: servers.job(*steps[plan], train=f"{plan.name}.jsonl") for plan in steps}
            inputs = {f"{plan.name}.jsonl": json.dumps(steps[plan]) for plan in steps}
            cluster = Cluster(servers, postgres, SERVERS, SEED, **NO_COPIES)
            storage = StorageFaults(weed, proxy, objects, inputs, SEED)
            decks = [Deck(faults, history, SEED) for faults in (cluster.faults, storage.faults)]
            yield World(servers=servers, jobs=jobs, digest=digest, cluster=cluster, decks=decks)


def soak(world: World, history: History, seconds: float) -> list[str]:
    """Clients and faults for so long; the names of the jobs that were made."""
    names: list[str] = []
    clients = [
        Client(SEED + number, addresses=world.cluster.addresses, jobs=world.jobs, history=history, names=names)
        for number in range(CLIENTS)
    ]
    end = time.monotonic() + seconds

    def wanted() -> bool:
        return time.monotonic() < end and not any(client.problem for client in clients)

    with ThreadPoolExecutor(len(world.decks)) as pool:
        for client in clients:
            client.start()
        try:
            for played in [pool.submit(deck.play, wanted=wanted, quiet_s=QUIET_S) for deck in world.decks]:
                played.result()
        finally:
            end = 0.0
            for client in clients:
                client.stop()
            for client in clients:
                client.join()
    for client in clients:
        assert client.problem is None, client.problem
    return names


def settle(client: Client, names: list[str]) -> None:
    """Look at every job until it has ended, or is gone."""
    deadline = time.monotonic() + SETTLE_S
    for name in names:
        while not client.settled(name):
            assert time.monotonic() < deadline, f"{name} has not ended {SETTLE_S:g} s after the last fault"
            time.sleep(0.1)


def succeeded(events: Sequence[Event]) -> list[str]:
    """Names of the jobs that were seen so last."""
    last = {event.name: event.state for event in events if event.operation is Operation.GET}
    return [name for name, state in last.items() if state == "SUCCEEDED"]


def check_results(servers: Servers, events: Sequence[Event]) -> None:
    """The result of a job that succeeded is one attempt's, and whole; other jobs have none.

    Jobs that somebody wanted to delete are left out: a server may have been killed in the middle.
    """
    deleted = {event.name for event in events if event.operation is Operation.DELETE}
    last = {event.name: event for event in events if event.operation is Operation.GET and event.outcome == OK}
    for event in (event for name, event in last.items() if name not in deleted):
        files = servers.stored(job_pb2.InfluenceJob(uid=event.uid))
        manifest = files.get("MANIFEST.json")
        assert (manifest is not None) == (event.state == "SUCCEEDED"), event
        if manifest is not None:
            for entry in json.loads(manifest)["tables"].values():
                assert hashlib.sha256(files[entry["file"]]).hexdigest() == entry["sha256"], event


def scripts(succeed: Step) -> dict[Plan, list[Step]]:
    """What the process of each plan does."""
    work = {"do": "count", "total": 5, "every_s": 0.1}
    return {
        Plan.SUCCEED: [work, succeed],
        Plan.CRASH_ONCE: [work, {"do": "kill", "signal": int(signal.SIGKILL), "attempt": 1}, succeed],
        Plan.FAIL: [work, {"do": "fail", "reason": "MANIFEST_INVALID", "message": "line 3"}],
    }
