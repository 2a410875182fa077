"""Servers that die or freeze: another goes on with their jobs, and there is one result."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
from eif.influence.v1 import job_pb2

from tests.influence_process import InfluenceProcess
from tests.servers import Servers, Step, lines, until

FOREVER: Step = {"do": "forever"}
RUNNING, SUCCEEDED = job_pb2.JOB_STATE_RUNNING, job_pb2.JOB_STATE_SUCCEEDED


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def process_of(runs: Path, attempt: int = 1) -> int:
    """Process id of a run that has begun."""
    until(lambda: len(lines(runs)) >= attempt)
    number, pid = lines(runs)[attempt - 1].split()
    assert int(number) == attempt
    return int(pid)


def undisturbed(servers: Servers, server: InfluenceProcess) -> dict[str, bytes]:
    """The table that the same job writes when nothing happens to it."""
    return tables(servers, server.ended(server.create(servers.job(servers.succeed(), train="calm.jsonl"))))


def tables(servers: Servers, job: job_pb2.InfluenceJob) -> dict[str, bytes]:
    """The tables that MANIFEST.json names; nothing else may lie beside it."""
    stored = servers.stored(job)
    assert stored.pop("MANIFEST.json")
    assert {table.uri.rpartition(f"{job.uid}/")[2] for table in job.output.tables} == stored.keys()
    return {name.rpartition("/")[2]: data for name, data in stored.items()}


def test_a_job_whose_server_is_killed_is_finished_by_another(servers: Servers) -> None:
    owner, runs = servers.start("a"), servers.folder / "runs"
    steps: list[Step] = [{"do": "append", "path": str(runs)}, {**FOREVER, "attempt": 1}, servers.succeed()]
    created = owner.create(servers.job(*steps))
    process = process_of(runs)
    other = servers.start("b")
    watching = other.watch(created)
    assert next(watching).state == RUNNING
    owner.kill()
    ended = list(watching)[-1]
    assert (ended.state, ended.attempt) == (SUCCEEDED, 2)
    assert is_gone(process)
    assert len(lines(runs)) == 2
    assert tables(servers, ended) == undisturbed(servers, other)
    again = servers.start("a")
    assert again.get(created) == ended
    assert len(lines(runs)) == 2


def test_a_result_that_a_killed_server_has_left_stands(servers: Servers) -> None:
    owner, mark = servers.start("a"), servers.folder / "mark"
    steps: list[Step] = [servers.succeed(), {"do": "touch", "path": str(mark)}, FOREVER]
    created = owner.create(servers.job(*steps))
    until(mark.exists)
    owner.kill()
    other = servers.start("b")
    ended = other.ended(created)
    assert (ended.state, ended.attempt) == (SUCCEEDED, 1)
    assert tables(servers, ended) == {"ranking.parquet": b"a table"}


def test_a_server_that_starts_again_takes_its_jobs_back_at_once(servers: Servers) -> None:
    long = {"EIF_INFLUENCE_LEASE_S": "3600"}
    owner, runs = servers.start("a", **long), servers.folder / "runs"
    steps: list[Step] = [{"do": "append", "path": str(runs)}, {**FOREVER, "attempt": 1}, servers.succeed()]
    created = owner.create(servers.job(*steps))
    process = process_of(runs)
    servers.start("b", **long)
    owner.kill()
    again = servers.start("a", **long)
    ended = again.ended(created)
    assert (ended.state, ended.attempt) == (SUCCEEDED, 2)
    assert is_gone(process)


def test_jobs_that_kill_their_servers_fail_at_last(servers: Servers) -> None:
    """A death of the server counts as one of the job: it may be the job that took all memory."""
    runs = servers.folder / "runs"
    limit = {"EIF_INFLUENCE_MAX_ATTEMPTS": "2"}
    first = servers.start("a", **limit)
    created = first.create(servers.job({"do": "append", "path": str(runs)}, FOREVER))
    process_of(runs)
    second = servers.start("b", **limit)
    first.kill()
    process_of(runs, attempt=2)
    third = servers.start("c", **limit)
    second.kill()
    ended = third.ended(created)
    assert (ended.state, ended.attempt) == (job_pb2.JOB_STATE_FAILED, 2)
    assert "the server that ran the job was lost, the last of 2 runs" in ended.error.message
    assert servers.stored(ended) == {}


def test_an_orderly_stop_hands_jobs_over_at_once(servers: Servers) -> None:
    long = {"EIF_INFLUENCE_LEASE_S": "3600"}
    owner, runs = servers.start("a", **long), servers.folder / "runs"
    steps: list[Step] = [{"do": "append", "path": str(runs)}, {**FOREVER, "attempt": 1}, servers.succeed()]
    created = owner.create(servers.job(*steps))
    process_of(runs)
    other = servers.start("b", **long)
    assert owner.terminate() == 0
    ended = other.ended(created)
    assert (ended.state, ended.attempt) == (SUCCEEDED, 2)


def test_what_a_frozen_server_says_late_is_refused(servers: Servers) -> None:
    owner, runs, go = servers.start("a"), servers.folder / "runs", servers.folder / "go"
    steps: list[Step] = [
        {"do": "append", "path": str(runs)},
        {"do": "wait_for", "path": str(go), "attempt": 1},
        servers.succeed("late or not"),
    ]
    created = owner.create(servers.job(*steps))
    frozen = process_of(runs)
    other = servers.start("b")
    owner.process.send_signal(signal.SIGSTOP)
    try:
        ended = other.ended(created)
        assert (ended.state, ended.attempt) == (SUCCEEDED, 2)
        published = servers.stored(ended)
        assert published.keys() == {"MANIFEST.json", "attempt-2/ranking.parquet"}
        assert not is_gone(frozen), "the process of the frozen server runs on"
        go.write_text("")  # it finds the result of the other attempt, withdraws its own, and says that it succeeded
        until(lambda: psutil.Process(frozen).status() == psutil.STATUS_ZOMBIE)
    finally:
        owner.process.send_signal(signal.SIGCONT)
    until(lambda: "the job is left to other servers" in owner.log.read_text())
    assert other.get(created) == owner.get(created) == ended
    assert servers.stored(ended) == published
    after = owner.create(servers.job(servers.succeed(), train="after.jsonl"))
    assert owner.ended(after).state == SUCCEEDED
