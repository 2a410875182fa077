"""Clients, servers and faults at the same time, and a history that the model has nothing against.

`EIF_SOAK_S` and `EIF_SOAK_SEED` make it longer and other: `make robustness`.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from eif.influence.v1 import job_pb2

from services.influence.tables import SCHEMAS
from tests.databases import real_postgres
from tests.postgres import Postgres
from tests.robustness.faults import Cluster
from tests.robustness.history import OK, Event, History, Operation, Plan
from tests.robustness.model import violations
from tests.robustness.traffic import Client
from tests.servers import Servers, Step, servers_on

Columns = dict[str, list[Any]]

SECONDS = float(os.environ.get("EIF_SOAK_S", "25"))
SEED = int(os.environ.get("EIF_SOAK_SEED", "0"))
SERVERS, CLIENTS = "ab", 4
ROWS = 1_000
QUIET_S = 1.0
"""Between two faults."""
SETTLE_S = 120.0
ENOUGH = 20
"""Jobs that must have come to their end, lest nothing was tried."""


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with real_postgres() as server:
        yield server


@pytest.mark.timeout(SECONDS + SETTLE_S + 120)
def test_nothing_is_lost_and_nothing_is_done_twice(postgres: Postgres, tmp_path: Path) -> None:
    history = History()
    with servers_on(postgres, tmp_path) as servers:
        step, digest = ranking(tmp_path)
        jobs = {plan: servers.job(*steps, train=f"{plan.name}.jsonl") for plan, steps in scripts(step).items()}
        cluster = Cluster(servers, postgres, SERVERS, history, SEED)
        names: list[str] = []
        clients = [
            Client(SEED + number, addresses=cluster.addresses, jobs=jobs, history=history, names=names)
            for number in range(CLIENTS)
        ]
        for client in clients:
            client.start()
        end = time.monotonic() + SECONDS
        while time.monotonic() < end and not any(client.problem for client in clients):
            time.sleep(QUIET_S)
            cluster.one_fault()
        for client in clients:
            client.stop()
        for client in clients:
            client.join()
            assert client.problem is None, client.problem
        look = Client(SEED, addresses=cluster.addresses, jobs=jobs, history=history, names=names)
        settle(look, sorted(set(names)))
        history.write(tmp_path / "history.jsonl")
        events = history.events
        assert violations(events, rows=digest) == [], f"the history is in {tmp_path}"
        assert set(cluster.exit_codes) <= {0}
        check_results(servers, events)
    made = Counter(event.state for event in {event.uid: event for event in events if event.uid}.values())
    assert made.total() - made["PENDING"] >= ENOUGH, (made, cluster.count)
    assert any(event.rows for event in events), "no stream came to its end"


def settle(client: Client, names: list[str]) -> None:
    """Look at every job until it has ended, or is gone."""
    deadline = time.monotonic() + SETTLE_S
    for name in names:
        while not client.settled(name):
            assert time.monotonic() < deadline, f"{name} has not ended {SETTLE_S:g} s after the last fault"
            time.sleep(0.1)


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


def ranking(folder: Path) -> tuple[Step, str]:
    """The step that succeeds with a ranking, and the digest of its rows."""
    rows = [(f"sample-{row:05d}", f"class-{row % 7}", 1.0 - row / ROWS) for row in range(ROWS)]
    columns: Columns = {
        "query_id": ["all"] * ROWS,
        "rank": list(range(1, ROWS + 1)),
        "sample_id": [sample_id for sample_id, _, _ in rows],
        "label": [label for _, label, _ in rows],
        "score": [score for _, _, score in rows],
    }
    tables, contents = {}, {"ranking": columns, "quarantine": Columns()}
    for name, values in contents.items():
        schema, path = SCHEMAS[name], folder / f"{name}.parquet"
        table = pa.table({field.name: values.get(field.name, []) for field in schema}, schema=schema)
        pq.write_table(table, path)
        tables[name] = {"path": str(path), "rows": table.num_rows}
    text = "".join(f"{sample_id} {label} {score!r}\n" for sample_id, label, score in rows)
    return {"do": "succeed", "tables": tables}, hashlib.sha256(text.encode()).hexdigest()


def scripts(succeed: Step) -> dict[Plan, list[Step]]:
    """What the process of each plan does."""
    work = {"do": "count", "total": 5, "every_s": 0.1}
    return {
        Plan.SUCCEED: [work, succeed],
        Plan.CRASH_ONCE: [work, {"do": "kill", "signal": int(signal.SIGKILL), "attempt": 1}, succeed],
        Plan.FAIL: [work, {"do": "fail", "reason": "MANIFEST_INVALID", "message": "line 3"}],
    }
