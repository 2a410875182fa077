from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from services.demo.guard import guarded

# Says who it is; told to stop, writes that it did, unless it is deaf.
PROGRAM = """
import os, pathlib, signal, subprocess, sys, time
here, deaf = pathlib.Path(sys.argv[1]), sys.argv[2] == "deaf"
def stop(*_):
    if not deaf:
        (here / "stopped").touch()
        sys.exit(0)
signal.signal(signal.SIGTERM, stop)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
(here / "part").write_text(f"{os.getpid()} {child.pid}")
(here / "part").rename(here / "pids")
while True:
    time.sleep(0.05)
"""
# A demo that is killed without a chance to clean up.
STARTER = """
import pathlib, sys
from services.demo.guard import guarded
with open(sys.argv[1], "wb") as log, guarded(sys.argv[2:], log=log, grace=5):
    sys.stdin.read()
"""


def command(folder: Path, *, deaf: bool = False) -> list[str]:
    return [sys.executable, "-c", PROGRAM, str(folder), "deaf" if deaf else "listening"]


def wait_for(path: Path) -> str:
    give_up = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < give_up, f"{path} did not come"
        time.sleep(0.02)
    return path.read_text()


def assert_gone(pids: list[int]) -> None:
    give_up = time.monotonic() + 10
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids):
        assert time.monotonic() < give_up, "a program outlived its guard"
        time.sleep(0.02)


def test_a_program_is_told_to_stop_at_the_end(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log, guarded(command(tmp_path), log=log, grace=20) as guard:
        program, child = map(int, wait_for(tmp_path / "pids").split())
        assert guard.poll() is None
    assert (tmp_path / "stopped").exists()
    assert_gone([program])
    os.kill(child, signal.SIGKILL)  # a program that stops by itself is trusted to have ended what it started


@pytest.mark.parametrize("grace", [0, 0.2])
def test_one_that_does_not_listen_is_killed_with_all_it_started(tmp_path: Path, grace: float) -> None:
    with (
        (tmp_path / "log").open("wb") as log,
        guarded(command(tmp_path, deaf=True), log=log, grace=grace) as guard,
    ):
        pids = [int(pid) for pid in wait_for(tmp_path / "pids").split()]
    assert guard.returncode == 128 + signal.SIGKILL
    assert_gone(pids)


def test_the_guard_ends_as_the_program_does(tmp_path: Path) -> None:
    program = [sys.executable, "-c", "import sys; print('so be it', flush=True); sys.exit(3)"]
    with (tmp_path / "log").open("wb") as log, guarded(program, log=log, grace=5) as guard:
        assert guard.wait(30) == 3
    assert (tmp_path / "log").read_text() == "so be it\n"


def test_a_killed_demo_leaves_nothing_behind(tmp_path: Path) -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(tmp_path / "log"), *command(tmp_path)], stdin=subprocess.PIPE
    )
    assert starter.stdin is not None
    with starter.stdin:
        program, child = map(int, wait_for(tmp_path / "pids").split())
        starter.kill()
        starter.wait()
        assert_gone([program])
    os.kill(child, signal.SIGKILL)
