"""What only a process of its own shows: pipes, terminals, Ctrl-C, start-up, and `eif serve`."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from eif.influence.v1 import influence_service_pb2, job_pb2

from tests.cli import COMMAND, environment, interruptible, run_eif
from tests.rankings import ranking_chunks
from tests.scripted_server import Context, ScriptedServer
from tests.system import make_files, read_until, running_system, start_serve, stop

SERVICE = influence_service_pb2.DESCRIPTOR.services_by_name["InfluenceService"]
NAME = "projects/default/influenceJobs/j1"


def running_job(done: int = 4) -> job_pb2.InfluenceJob:
    job = job_pb2.InfluenceJob(name=NAME, state=job_pb2.JOB_STATE_RUNNING, rank=job_pb2.RankSpec())
    job.progress.CopyFrom(
        job_pb2.JobProgress(stage="features", done=done, total=10, unit="samples", stages_done=1, stages_total=5)
    )
    return job


async def get(_request: object, _context: Context) -> job_pb2.InfluenceJob:
    return running_job()


async def watch_for_ever(_request: object, context: Context) -> None:
    await context.write(influence_service_pb2.InfluenceJobEvent(influence_job=running_job()))
    await asyncio.Event().wait()


async def watch_to_the_end(_request: object, context: Context) -> None:
    for done in range(10):
        await context.write(influence_service_pb2.InfluenceJobEvent(influence_job=running_job(done)))
    job = running_job(10)
    job.state = job_pb2.JOB_STATE_SUCCEEDED
    await context.write(influence_service_pb2.InfluenceJobEvent(influence_job=job))


async def stream_for_ever(_request: object, context: Context) -> None:
    for chunk in ranking_chunks(100_000, chunk_rows=1000):
        await context.write(chunk)
    await asyncio.Event().wait()


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    handlers = {"GetInfluenceJob": get, "WatchInfluenceJob": watch_for_ever, "StreamRankedSamples": stream_for_ever}
    with ScriptedServer(SERVICE, handlers) as running:
        yield running


def start(server: ScriptedServer, *arguments: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
    with interruptible():
        return subprocess.Popen(
            [*COMMAND, *arguments],
            env=environment(EIF_TARGET=server.target),
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
        )


def until(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    """Whether the condition becomes true in time."""
    give_up = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.02)
    return True


def test_ctrl_c_while_watching_leaves_the_job_alone(server: ScriptedServer) -> None:
    process = start(server, "watch", "j1")
    assert until(lambda: bool(server.requests("WatchInfluenceJob")))
    assert process.stderr is not None
    first = process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert first == "j1 features (2 of 5): 4/10 samples\n"
    assert (process.returncode, out) == (130, "")
    assert err == f"stopped watching; {NAME} goes on: `eif watch j1` follows it, `eif jobs cancel j1` stops it\n"
    assert {name for name, _ in server.calls} == {"GetInfluenceJob", "WatchInfluenceJob"}
    assert server.wait_until_idle()


def test_ctrl_c_while_a_call_hangs() -> None:
    async def hang(_request: object, _context: Context) -> None:
        await asyncio.Event().wait()

    with ScriptedServer(SERVICE, {"GetInfluenceJob": hang}) as server:
        process = start(server, "jobs", "get", "j1")
        assert server.wait_until_busy(30)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
        assert server.wait_until_idle()
    assert (process.returncode, out, err) == (130, "", "interrupted\n")


def test_the_reader_of_a_pipe_may_leave(server: ScriptedServer) -> None:
    process = start(server, "stream", "j1", "--format", "jsonl")
    assert process.stdout is not None
    assert process.stdout.readline().startswith('{"query_id": "all", "rank": 1,')
    process.stdout.close()
    assert process.wait(30) == 141
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()
    assert server.wait_until_idle()


def test_a_full_disk_is_said(server: ScriptedServer) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    process = start(server, "stream", "j1", "--max-rows", "5", stdout=full)
    os.close(full)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert err.startswith("error: standard output: No space left on device")
    assert len(err.splitlines()) == 1


def test_a_terminal_gets_a_bar_and_a_pipe_stays_clean() -> None:
    with ScriptedServer(SERVICE, {"GetInfluenceJob": get, "WatchInfluenceJob": watch_to_the_end}) as server:
        terminal, stderr = pty.openpty()
        process = subprocess.Popen(
            [*COMMAND, "watch", "j1", "--json"],
            env=environment(EIF_TARGET=server.target, TERM="xterm-256color", COLUMNS="100"),
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
        os.close(stderr)
        out, _ = process.communicate(timeout=30)
        shown = read_all(terminal)
    assert process.returncode == 0
    assert "\x1b[" in shown
    assert "features" in shown
    assert "\x1b" not in out
    assert len(out.splitlines()) == 11


def read_all(terminal: int) -> str:
    """What was written to a pseudo-terminal whose other end is closed."""
    parts = []
    try:
        while part := os.read(terminal, 65536):
            parts.append(part)
    except OSError:  # Linux says EIO at the end
        pass
    os.close(terminal)
    return b"".join(parts).decode()


def test_output_that_can_only_be_ascii() -> None:
    async def named(_request: object, _context: Context) -> influence_service_pb2.ListInfluenceJobsResponse:
        job = running_job()
        job.display_name = "ünïcode"
        return influence_service_pb2.ListInfluenceJobsResponse(influence_jobs=[job])

    with ScriptedServer(SERVICE, {"ListInfluenceJobs": named}) as server:
        variables = {"EIF_TARGET": server.target, "PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "0"}
        ended = run_eif("jobs", "list", variables=variables)
    assert (ended.exit_code, ended.err) == (0, "")
    assert ended.out.splitlines()[1].endswith("\\xfcn\\xefcode")


def test_help_needs_no_heavy_module() -> None:
    code = (
        "import sys; from services.client.cli.app import eif\n"
        "try: eif.main(['--help'], prog_name='eif')\n"
        "except SystemExit: pass\n"
        "heavy = {'grpc', 'google.protobuf', 'rich', 'numpy', 'pydantic', 'torch', 'eif_engine'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.endswith("HEAVY []\n")


def test_serve_drains_on_ctrl_c_and_leaves_nothing(tmp_path: Path) -> None:
    with running_system(tmp_path) as system:
        children = psutil.Process(system.process.pid).children(recursive=True)
        assert len(children) == 2
        assert (system.data / "logs" / "influence.log").read_text()
        assert stop(system.process) == 0
    assert [child for child in children if child.is_running()] == []


def test_serve_ends_with_its_services(tmp_path: Path) -> None:
    with running_system(tmp_path, which="embedding") as system:
        assert (system.influence, system.embedding != "") == ("", True)
        (child,) = psutil.Process(system.process.pid).children()
        child.kill()
        assert system.process.wait(30) == 1
        assert system.process.stdout is not None
        assert "error: the embedding service has ended" in system.process.stdout.read()


def test_serve_says_why_it_cannot_start(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        process = start_serve(
            "all", "--data", str(tmp_path / "data"), cwd=tmp_path, listen=f"127.0.0.1:{taken.getsockname()[1]}"
        )
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "error: the influence service ended with exit code 2" in out
    assert "the port is taken" in out
    assert "Traceback" not in out
    assert [p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or [])] == []


def test_serve_can_be_interrupted_while_it_starts(tmp_path: Path) -> None:
    process = start_serve("all", "--data", str(tmp_path / "data"), cwd=tmp_path)
    assert until((tmp_path / "data" / "logs" / "embedding.log").exists)
    assert stop(process) == 130


def test_serve_reads_files_where_it_was_started(tmp_path: Path) -> None:
    files = make_files(tmp_path / "world")
    process = start_serve("influence", cwd=files)
    try:
        printed = read_until(process, "Ctrl-C stops")
        target = printed[0].split()[2]
        check = ["rank", "--model", "model", "--train", "train.jsonl", "--test", "test.jsonl", "--check-only"]
        ended = run_eif(*check, variables={"EIF_TARGET": target}, cwd=files)
    finally:
        assert stop(process) == 0
    assert (ended.exit_code, ended.err) == (0, "this job would be accepted\n")
    assert (files / "eif-data" / "logs").is_dir()
