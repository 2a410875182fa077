"""Where the time of a GetInfluenceJob goes: each of its steps by itself, in this process, without gRPC."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import numpy as np
import sqlalchemy as sa
from eif.influence.v1 import influence_service_pb2 as service_pb2
from prometheus_client import CollectorRegistry

from services.common.access.authorization import check
from services.common.access.policy import parse_policy
from services.common.access.token_file import TokenBook, entry_of, new_token
from services.common.call_metrics import CallMetrics
from services.common.call_record import CallRecord
from services.common.telemetry import CallLog, JsonFormatter
from services.influence.access import RULES
from services.influence.board import Board
from services.influence.converters import read_job_name, write_job
from services.influence.job_tables import JOBS
from services.influence.ledger import Ledger
from services.influence.open_job_store import open_job_store
from services.influence.servicer import NAME
from services.influence.sql_rows import NAMED, read_row, select_jobs
from tests.jobs import make_job

METHOD = f"/{NAME}/GetInfluenceJob"
CALLS = 2_000
POLICY = b"""
version: 1
projects: {p: {}}
grants: [{identities: ["token:nightly"], projects: [p], verbs: [read]}]
"""


def steps(folder: Path) -> dict[str, float]:
    """Microseconds of each step of a GetInfluenceJob, at p50."""
    return asyncio.run(_steps(folder))


async def _steps(folder: Path) -> dict[str, float]:
    store = open_job_store(None, folder)
    alone = Ledger(store, Board())
    store.shared = True  # for the next one: it asks the table every time
    shared = Ledger(store, Board())
    job = store.create(make_job(), request=None, max_pending=9)
    name, row = job.name, store._transactions.first(NAMED, {"name": job.name})
    assert row is not None
    message = write_job(job).SerializeToString()
    figures = {
        "name_us": _p50(lambda: read_job_name(name)),
        "statement_built_us": _p50(lambda: select_jobs().where(JOBS.c.name == sa.literal(name))),
        "table_us": _p50(lambda: store.get(name)),
        "row_parsed_us": _p50(lambda: read_row(row)),
        "thread_us": await _p50_of(lambda: alone._call(lambda: None)),
        "ledger_table_us": await _p50_of(lambda: shared.get(name)),
        "ledger_known_us": await _p50_of(lambda: alone.get(name)),
        "message_written_us": _p50(lambda: write_job(job).SerializeToString()),
        "message_read_by_the_client_us": _p50(lambda: type(write_job(job)).FromString(message)),
        **_around(folder),
    }
    alone.close()
    shared.close()
    return figures


def _around(folder: Path) -> dict[str, float]:
    """What every call has."""
    token = new_token()
    entry = entry_of("nightly", token)
    file = folder / "tokens.yaml"
    file.write_text(f'version: 1\ntokens: [{{name: {entry.name}, sha256: "{entry.sha256}"}}]\n')
    time.sleep(0.2)  # until then a new file is read at every look
    book, policy, record = TokenBook(file), parse_policy(POLICY), CallRecord(method=METHOD, job_uid="u" * 36)
    request = service_pb2.GetInfluenceJobRequest(name="projects/p/influenceJobs/job-a")
    metrics = CallMetrics(CollectorRegistry(), [NAME])
    calls = logging.getLogger("eif.calls")
    with (folder / "log").open("w") as log:
        handler = logging.StreamHandler(log)
        handler.setFormatter(JsonFormatter(secrets=["a secret of the store"]))
        calls.handlers, calls.propagate = [handler], False
        calls.setLevel(logging.INFO)
        figures = {
            "authenticated_us": _p50(lambda: book.name_of(token)),
            "authorised_us": _p50(lambda: check(policy, RULES[METHOD], request, caller="token:nightly")),
            "counted_us": _p50(partial(metrics.begin, record)) + _p50(partial(metrics.end, record)),
            "logged_us": _p50(partial(CallLog().end, record)),
        }
        calls.handlers = []
    return figures


def _p50(step: Callable[[], object]) -> float:
    taken = []
    for _ in range(CALLS):
        started = time.perf_counter()
        step()
        taken.append(time.perf_counter() - started)
    return 1e6 * float(np.median(taken))


async def _p50_of(step: Callable[[], Awaitable[object]]) -> float:
    taken = []
    for _ in range(CALLS):
        started = time.perf_counter()
        await step()
        taken.append(time.perf_counter() - started)
    return 1e6 * float(np.median(taken))
