from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from services.influence.local_runner import LocalRunner
from services.influence.messages import CancelledMessage, FailedMessage, Message, ProgressMessage, SucceededMessage
from services.influence.runner import ExitReport
from tests.conftest import REPO
from tests.waiting import eventually

PROGRAM = (sys.executable, str(REPO / "tests" / "job_program.py"))
Step = dict[str, Any]


ENVIRON = {**os.environ, "PYTHONPATH": str(REPO)}

make_runner = partial(LocalRunner, environ=ENVIRON, command=PROGRAM)


def write_script(folder: Path, *steps: Step) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "script.json").write_text(json.dumps(steps))
    return folder


async def run(folder: Path, *steps: Step, runner: LocalRunner | None = None) -> tuple[ExitReport, list[Message]]:
    messages: list[Message] = []
    report = await (runner or make_runner()).run(write_script(folder, *steps), messages.append)
    return report, messages


def pid_in(path: Path) -> int:
    return int(path.read_text() or 0)


async def written(path: Path) -> int:
    await eventually(lambda: path.exists() and path.read_text().endswith("\n"))
    return pid_in(path)


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


async def test_messages_come_in_order_and_the_last_one_is_reported(tmp_path: Path) -> None:
    report, messages = await run(
        tmp_path,
        {"do": "progress", "done": 1, "total": 2},
        {"do": "progress", "done": 2, "total": 2},
        {"do": "say_succeeded"},
    )
    assert [message.done for message in messages if isinstance(message, ProgressMessage)] == [1, 2]
    assert isinstance(report.last, SucceededMessage)
    assert (report.exit_code, report.signal, report.asked_to_stop) == (0, None, False)


async def test_a_failure_is_reported_with_its_reason(tmp_path: Path) -> None:
    report, _ = await run(tmp_path, {"do": "fail", "reason": "IMAGE_INVALID", "message": "x", "metadata": {"uri": "u"}})
    assert report.last == FailedMessage(reason="IMAGE_INVALID", message="x", metadata={"uri": "u"})


async def test_noise_on_standard_output_does_no_harm(tmp_path: Path) -> None:
    report, messages = await run(
        tmp_path,
        {"do": "print", "text": "x" * 1000, "times": 3000},
        {"do": "print", "text": "\nnot json\n{}\n"},
        {"do": "progress", "done": 1, "total": 2},
        {"do": "print", "text": "an end without a line end"},
    )
    assert len(messages) == 1
    assert report == ExitReport(exit_code=0)


async def test_an_exit_without_a_last_message_tells_code_and_log(tmp_path: Path) -> None:
    steps = [{"do": "log", "text": f"line {number}\n"} for number in range(20)]
    report, _ = await run(tmp_path, *steps, {"do": "exit", "code": 7})
    assert (report.last, report.exit_code, report.signal) == (None, 7, None)
    assert report.log_tail.splitlines() == [f"line {number}" for number in range(8, 20)]
    log = (tmp_path / "log.txt").read_text()
    assert log.startswith("line 0\n")
    assert json.loads(log.splitlines()[-1])["message"] == "the job process ended (exit code 7)"


async def test_a_process_that_is_killed_tells_the_signal(tmp_path: Path) -> None:
    report, _ = await run(tmp_path, {"do": "kill", "signal": signal.SIGKILL})
    assert (report.exit_code, report.signal, report.asked_to_stop) == (None, "SIGKILL", False)


async def test_the_process_sees_the_environment_it_is_given_and_the_log_end_no_secret(tmp_path: Path) -> None:
    runner = make_runner(environ={"SECRET_KEY": "hush", "PYTHONPATH": str(REPO)}, secrets=("hush", ""))
    report, _ = await run(
        tmp_path, {"do": "environ", "name": "SECRET_KEY"}, {"do": "environ", "name": "HOME"}, runner=runner
    )
    assert report.log_tail == "SECRET_KEY=***\nHOME=None"


async def test_cancel_stops_the_process(tmp_path: Path) -> None:
    runner = make_runner()
    script = write_script(tmp_path, {"do": "touch", "path": str(tmp_path / "started")}, {"do": "forever"})
    running = asyncio.create_task(runner.run(script, lambda _: None))
    await written(tmp_path / "started")
    started = time.monotonic()
    runner.cancel(tmp_path)
    runner.cancel(tmp_path)
    report = await running
    assert report == ExitReport(last=CancelledMessage(), exit_code=0, asked_to_stop=True)
    assert time.monotonic() - started < 3


async def test_a_process_that_does_not_stop_is_killed_with_its_children(tmp_path: Path) -> None:
    runner = make_runner(grace_s=0.3)
    started, child = tmp_path / "started", tmp_path / "pid"
    script = write_script(
        tmp_path, {"do": "ignore_sigterm"}, {"do": "child"}, {"do": "touch", "path": str(started)}, {"do": "forever"}
    )
    running = asyncio.create_task(runner.run(script, lambda _: None))
    pid = await written(started)
    family = [pid, *(process.pid for process in psutil.Process(pid).children())]
    assert len(family) == 2
    assert pid_in(child) == pid
    runner.cancel(tmp_path)
    report = await running
    assert (report.signal, report.asked_to_stop) == ("SIGKILL", True)
    await eventually(lambda: not any(is_alive(member) for member in family))


async def test_children_that_outlive_the_process_are_ended_and_not_waited_for(tmp_path: Path) -> None:
    started = time.monotonic()
    report, _ = await run(tmp_path, {"do": "child"}, {"do": "exit", "code": 0})
    assert report.exit_code == 0
    assert time.monotonic() - started < 10


async def test_a_cancel_before_the_start_starts_nothing(tmp_path: Path) -> None:
    runner = make_runner()
    holder = await hold_the_lock(tmp_path)  # so that the start has to wait
    running = asyncio.create_task(runner.run(write_script(tmp_path, {"do": "forever"}), lambda _: None))
    await asyncio.sleep(0.2)
    runner.cancel(tmp_path)
    holder.kill()
    assert await running == ExitReport(asked_to_stop=True)
    assert not (tmp_path / "pid").exists()
    runner.cancel(tmp_path)  # nothing runs there any more
    await holder.wait()


async def test_when_the_caller_is_cancelled_the_process_is_killed(tmp_path: Path) -> None:
    script = write_script(tmp_path, {"do": "touch", "path": str(tmp_path / "started")}, {"do": "forever"})
    running = asyncio.create_task(make_runner().run(script, lambda _: None))
    pid = await written(tmp_path / "started")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await eventually(lambda: not is_alive(pid))


SERVER_THAT_DIES = """
import asyncio, os, pathlib, signal, sys
from tests.unit.influence.test_local_runner import make_runner
folder = pathlib.Path(sys.argv[1])
async def main():
    running = asyncio.create_task(make_runner().run(folder, print))
    while not (folder / "started").exists():
        await asyncio.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


async def die_beside_a_process(folder: Path) -> int:
    """Run a server that starts the script of a folder and is killed in the middle; the pid of the job process."""
    dying = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVER_THAT_DIES, str(folder), env={**os.environ, "PYTHONPATH": str(REPO)}
    )
    await dying.wait()
    return await written(folder / "started")


async def test_the_process_of_a_dead_server_ends_and_is_waited_for(tmp_path: Path) -> None:
    write_script(tmp_path, {"do": "touch", "path": str(tmp_path / "started")}, {"do": "forever"})
    pid = await die_beside_a_process(tmp_path)
    await make_runner().reap(tmp_path)
    await eventually(lambda: not is_alive(pid))


async def test_a_stuck_process_of_a_dead_server_is_killed(tmp_path: Path) -> None:
    write_script(tmp_path, {"do": "touch", "path": str(tmp_path / "started")}, {"do": "forever"})
    pid = await die_beside_a_process(tmp_path)
    await eventually(lambda: not is_alive(pid))
    holder = await hold_the_lock(tmp_path)
    (tmp_path / "pid").write_text(f"{holder.pid}\n")
    report, _ = await run(tmp_path, {"do": "exit", "code": 4}, runner=make_runner(orphan_patience_s=0.3))
    assert report.exit_code == 4
    assert await holder.wait() == -signal.SIGKILL


async def test_a_process_that_only_has_the_number_of_an_orphan_is_left_alone(tmp_path: Path) -> None:
    folder = write_script(tmp_path / "job")
    holder = await hold_the_lock(folder)
    bystander = await asyncio.create_subprocess_exec("sleep", "60", start_new_session=True)
    (folder / "pid").write_text(f"{bystander.pid}\n")
    waiting = asyncio.create_task(make_runner(orphan_patience_s=0.2).reap(folder))
    await asyncio.sleep(0.6)
    assert not waiting.done()
    holder.kill()
    await waiting
    assert bystander.returncode is None
    bystander.kill()
    await bystander.wait()
    await holder.wait()


HOLD_THE_LOCK = """
import fcntl, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
file = (folder / "lock").open("w")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(3600)
"""


async def hold_the_lock(folder: Path) -> asyncio.subprocess.Process:
    holder = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLD_THE_LOCK, str(folder), stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    assert holder.stdout is not None
    assert await holder.stdout.readline() == b"held\n"
    return holder
