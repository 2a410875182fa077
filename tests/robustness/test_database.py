"""A job table that is out of reach, without room, or lost with everything else. Numbers are those of README.md."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import psutil
import pytest
from eif.influence.v1 import job_pb2

from tests.influence_process import InfluenceProcess
from tests.postgres import Postgres
from tests.robustness.calls import Reader, listed, refusal
from tests.robustness.rows import ranking
from tests.servers import Servers, Step, lines, until
from tests.small_disk import small_disk
from tests.socket_proxy import SocketProxy

RUNNING, SUCCEEDED = job_pb2.JOB_STATE_RUNNING, job_pb2.JOB_STATE_SUCCEEDED
FOREVER: Step = {"do": "forever"}
ROWS = 2_000


@pytest.fixture
def parted(postgres: Postgres) -> Iterator[SocketProxy]:
    """A way to the database that can be parted."""
    with TemporaryDirectory(prefix="pg-", dir="/tmp") as folder, SocketProxy(Path(folder), postgres.folder) as proxy:
        yield proxy
        proxy.heal()


def test_a_server_that_is_parted_from_the_database_has_stopped_before_another_begins(
    servers: Servers, parted: SocketProxy
) -> None:
    """23."""
    runs, alive = servers.folder / "runs", servers.folder / "alive"
    url = servers.url.replace(servers.url.partition("host=")[2], str(parted.folder))
    owner = servers.start("a", EIF_INFLUENCE_DATABASE_URL=url)
    steps: list[Step] = [
        {"do": "append", "path": str(runs)},
        {**FOREVER, "attempt": 1},
        {"do": "are_gone", "path": str(runs), "to": str(alive)},
        servers.succeed(),
    ]
    created = owner.create(servers.job(*steps))
    until(lambda: lines(runs))
    other = servers.start("b")
    parted.part()
    ended = other.ended(created)
    assert (ended.state, ended.attempt) == (SUCCEEDED, 2)
    assert [line.split()[0] for line in lines(runs)] == ["1", "2"]
    assert alive.read_text() == "[]", "the process of the parted server still worked when the next one began"
    published = servers.stored(ended)
    assert published.keys() == {"MANIFEST.json", "attempt-2/ranking.parquet"}
    parted.heal()
    until(lambda: refusal(lambda: owner.get(created)) is None)
    assert owner.get(created) == other.get(created) == ended
    assert servers.stored(ended) == published
    after = owner.create(servers.job(servers.succeed(), train="after.jsonl"))
    assert owner.ended(after).state == SUCCEEDED


def fill(folder: Path) -> Path:
    """Take what room a disk has."""
    path = folder / "ballast"
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    return path


def test_a_server_whose_disk_is_full_says_so_and_recovers(tmp_path: Path) -> None:
    """17."""
    with small_disk(tmp_path / "disk", "4m") as disk, ExitStack() as stack:
        (tmp_path / "state-a").symlink_to(disk)
        lone = Servers(tmp_path, "", stack)
        server = lone.start("state-a")
        kept = server.ended(server.create(lone.job(lone.succeed())))
        ballast, request_id = fill(disk), str(uuid.uuid4())
        new = lone.job(lone.succeed(), train="new.jsonl")
        failed = refusal(lambda: [server.create(new) for _ in range(100)])
        assert failed is not None
        assert (failed.code, failed.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RESOURCE_PROBLEM")
        assert refusal(lambda: server.create(new, request_id=request_id)) == failed
        assert server.get(kept) == kept
        ballast.unlink()
        made = server.create(new, request_id=request_id)
        assert server.ended(made).state == SUCCEEDED
        assert sum(job.uid == made.uid for job in listed(server)) == 1
        assert server.terminate() == 0


def processes(server: InfluenceProcess) -> list[psutil.Process]:
    """A server and its job processes."""
    own = psutil.Process(server.process.pid)
    return [own, *own.children(recursive=True)]


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_nothing_acknowledged_is_lost_with_the_power(
    database: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """30."""
    postgres: Postgres | None = request.getfixturevalue("postgres") if database == "postgresql" else None
    with ExitStack() as stack:
        url = postgres.create(f"jobs_{uuid.uuid4().hex}") if postgres else ""
        world = Servers(tmp_path, url, stack)
        names = "ab" if postgres else "a"
        running = [world.start(name) for name in names]
        step, digest = ranking(tmp_path, ROWS)
        ended = running[0].ended(running[0].create(world.job(step, train="first.jsonl")))
        runs, go = tmp_path / "runs", tmp_path / "go"
        steps: list[Step] = [{"do": "append", "path": str(runs)}, {"do": "wait_for", "path": str(go)}, step]
        job, request_ids = world.job(*steps), [str(uuid.uuid4()) for _ in range(6)]
        made = [running[0].create(job, request_id=request_id) for request_id in request_ids]
        until(lambda: len(lines(runs)) >= len(names))
        killed = [process for server in running for process in processes(server)]
        if postgres:
            postgres.kill(at_once=True)
        for process in killed:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for server in running:
            server.close()
        if postgres:
            postgres.start()
        again = [world.start(name) for name in names]
        assert again[-1].get(ended) == ended
        assert [again[-1].create(job, request_id=each).uid for each in request_ids] == [each.uid for each in made]
        go.touch()
        finished = [again[0].ended(each) for each in made]
        assert {each.state for each in finished} == {SUCCEEDED}
        for each in (ended, *finished):
            reader = Reader(each.name)
            reader.read(again[-1])
            assert reader.digest() == digest
            assert world.stored(each).keys() == {
                "MANIFEST.json", f"attempt-{each.attempt}/ranking.parquet", f"attempt-{each.attempt}/quarantine.parquet"
            }  # fmt: skip
        assert len(listed(again[0])) == 1 + len(made)
