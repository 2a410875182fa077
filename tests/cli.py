"""Runs the `eif` command: in this process for speed, in one of its own where pipes, signals and start-up count."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.client.cli.app import eif
from services.client.cli.failures import run_guarded

COMMAND = (sys.executable, "-W", "error", "-m", "services.client")


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What a command has left."""

    exit_code: int
    out: str
    err: str


class Cli:
    """`eif` in this process, against the targets of `environment`."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Ended:
        self._capsys.readouterr()
        exit_code = run_guarded(lambda: eif.main(list(arguments), prog_name="eif", standalone_mode=False))
        printed = self._capsys.readouterr()
        return Ended(exit_code=exit_code, out=printed.out, err=printed.err)


def environment(**variables: str) -> dict[str, str]:
    """The environment without settings of this software, and with these."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("EIF_")}
    return {**clean, "OMP_NUM_THREADS": "1", **variables}


@contextmanager
def interruptible() -> Iterator[None]:
    """Processes that are started here can be interrupted, also where this one was started in the background."""
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def run_eif(
    *arguments: str, variables: Mapping[str, str] | None = None, cwd: Path | None = None, stdin: str = ""
) -> Ended:
    """`eif` as a process of its own."""
    ended = subprocess.run(
        [*COMMAND, *arguments],
        env=environment(**(variables or {})),
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Ended(exit_code=ended.returncode, out=ended.stdout, err=ended.stderr)
