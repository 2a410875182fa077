"""The Python client against the real services."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.client.errors import FailedPrecondition, InvalidArgument, NotFound
from services.client.influence import InfluenceClient
from services.client.jobs import Job, JobState
from services.client.reconnect import Reconnect
from services.client.specs import JobOptions, Queries, RankOrder, Table
from tests.cli import environment
from tests.system import System, running_system
from tests.tcp_proxy import TcpProxy

DOCS = Path(__file__).resolve().parents[2] / "docs"
FAST = Reconnect(first_delay=0.02, max_delay=0.2, patience=30.0)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with running_system(tmp_path_factory.mktemp("system")) as running:
        yield running


@pytest.fixture(scope="module")
def client(system: System) -> Iterator[InfluenceClient]:
    with InfluenceClient(system.influence, reconnect=FAST) as connected:
        yield connected


@pytest.fixture(scope="module")
def ranked(system: System, client: InfluenceClient) -> Job:
    job = client.rank(
        model=system.uri("model"), train=system.uri("train.jsonl"), test=system.uri("test.jsonl"), top_k=4
    )
    assert job.state in {JobState.PENDING, JobState.RUNNING}
    with client.watch(job) as changes:
        stages = [change.progress.stage for change in changes if change.progress]
    assert list(dict.fromkeys(filter(None, stages)))[-1] == "results"
    return client.wait(job)


def test_a_stream_is_the_table_in_both_orders(client: InfluenceClient, ranked: Job) -> None:
    table = list(client.results(ranked, Table.RANKING, page_size=7))
    assert [row.rank for row in table] == list(range(1, 31))
    assert list(client.stream_ranked_samples(ranked, chunk_rows=7)) == table
    backwards = list(client.stream_ranked_samples(ranked, chunk_rows=7, order=RankOrder.HELPFUL))
    assert [(row.sample_id, row.score) for row in backwards] == [(row.sample_id, row.score) for row in reversed(table)]
    assert [row.rank for row in backwards] == list(range(1, 31))
    assert len(list(client.stream_ranked_samples(ranked, max_rows=11, chunk_rows=4))) == 11


def test_the_ranking_of_a_query_keeps_both_ends(client: InfluenceClient, ranked: Job) -> None:
    pair = next(client.results(ranked, Table.PAIRS))
    for order in RankOrder:
        rows = list(client.stream_ranked_samples(ranked, query_id=pair.query_id, order=order, chunk_rows=3))
        assert [row.rank for row in rows] == [1, 2, 3, 4, 27, 28, 29, 30]
    assert list(client.results(ranked, Table.QUARANTINE)) == []


def test_a_stream_resumes_by_its_token(client: InfluenceClient, ranked: Job) -> None:
    with client.stream_ranked_samples(ranked, chunk_rows=8).chunks() as chunks:
        first = next(chunks)
    rest = client.stream_ranked_samples(ranked, chunk_rows=5, resume_token=first.resume_token)
    assert [row.rank for row in rest] == list(range(9, 31))
    with pytest.raises(InvalidArgument) as caught:
        list(client.stream_ranked_samples(ranked, resume_token="made up"))
    assert caught.value.reason == "RESUME_TOKEN_INVALID"


def test_a_job_that_cannot_be_read_yet(system: System, client: InfluenceClient) -> None:
    job = client.rank(
        model=system.uri("model"),
        train=system.uri("train.jsonl"),
        test=system.uri("test.jsonl"),
        queries=Queries(max_queries=1),
        options=JobOptions(job_id="early"),
    )
    with pytest.raises(FailedPrecondition) as caught:
        list(client.stream_ranked_samples("early"))
    assert caught.value.reason == "JOB_NOT_SUCCEEDED"
    cancelled = client.cancel_job(job)
    assert cancelled.state in {JobState.CANCELLING, JobState.CANCELLED, JobState.SUCCEEDED}
    with client.watch(job) as changes:
        ended = list(changes)[-1]
    assert ended.state.is_terminal
    client.delete_job(ended, etag=ended.etag)
    with pytest.raises(NotFound) as missing:
        client.get_job("early")
    assert missing.value.reason == "JOB_NOT_FOUND"


@contextmanager
def influence_server(state: Path, system: System) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The influence service alone, on a state folder of the test."""
    variables = environment(
        EIF_INFLUENCE_STATE_DIR=str(state),
        EIF_INFLUENCE_LISTEN="127.0.0.1:0",
        EIF_INFLUENCE_OUTPUT_URI_PREFIX=f"file://{system.data}/results",
        EIF_STORAGE_FILE_ROOTS=f"{system.files}:{system.data}",
    )
    command = [sys.executable, "-m", "services.influence"]
    with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = next(line for line in process.stdout if "listening" in line)
            match = re.search(r'127\.0\.0\.1:(\d+)"', line)
            assert match is not None
            yield process, int(match.group(1))
        finally:
            process.kill()


def test_a_stream_outlives_kill_9_of_the_server(system: System, ranked: Job, tmp_path: Path) -> None:
    # A copy of the state, as a snapshot of its disk: the running service holds the lock of the original.
    state = shutil.copytree(system.data / "state" / "influence", tmp_path / "state")
    with TcpProxy(None) as proxy, InfluenceClient(proxy.target, reconnect=FAST) as client:
        with influence_server(state, system) as (first, port):
            proxy.target_port = port
            assert client.get_job(ranked.name).state is JobState.SUCCEEDED
            proxy.cut_after(800, then_target=None)
            rows = client.stream_ranked_samples(ranked.name, chunk_rows=2)
            read = [next(rows)]
            assert proxy.wait_until_cut()
            first.send_signal(signal.SIGKILL)
            first.wait(10)
        with influence_server(state, system) as (_second, port):
            proxy.target_port = port
            read += rows
    assert [row.rank for row in read] == list(range(1, 31))
    assert proxy.connections == 2


@pytest.mark.parametrize("page", ["client.md"])
def test_the_code_of_the_docs_runs(
    page: str, system: System, ranked: Job, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert ranked.state is JobState.SUCCEEDED
    shutil.copy(system.files / "train" / "0000.png", tmp_path / "shoe.png")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), flags=re.DOTALL)
    assert len(blocks) >= 6
    for block in blocks:
        code = block.replace("s3://bucket", f"file://{system.files}")
        code = code.replace("127.0.0.1:50051", system.influence).replace("127.0.0.1:50052", system.embedding)
        exec(compile(code, page, "exec"), {"__name__": page})  # noqa: S102 - our own documentation
