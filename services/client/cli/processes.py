"""Services as child processes: started in turn, watched, drained together."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

import click

from services.client.cli import exit_codes
from services.client.cli.failures import InputError
from services.client.cli.text import printable

START_SECONDS = 60.0
DRAIN_SECONDS = 45.0
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SHOWN_LOG_LINES = 5


class ServiceProcess:
    """One service; what it prints goes to the end of its log."""

    def __init__(self, name: str, *, log: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as output:
            self._log_start = output.tell()
            # A session of its own: Ctrl-C reaches only the parent, which then tells its children in order.
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", f"services.{name}"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def address(self) -> str | None:
        """Where it listens, once it does."""
        for line in self._log_lines():
            with contextlib.suppress(ValueError):
                record = json.loads(line)
                if isinstance(record, dict) and record.get("event") == "listening":
                    return str(record["address"])
        return None

    def last_words(self) -> str:
        """The end of what it has printed since it was started."""
        return "\n".join(f"  {printable(line)}" for line in self._log_lines()[-_SHOWN_LOG_LINES:])

    def terminate(self) -> None:
        """Ask it to drain; asked again, it ends running calls at once."""
        if self.exit_code is None:
            self._process.terminate()

    def kill(self) -> None:
        """End it and whatever it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _log_lines(self) -> list[str]:
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            text = log.read().decode(errors="replace")
        return [line for line in text.splitlines() if line.strip()]


class Supervisor:
    """Runs services until a signal comes or one of them ends; leaves none behind."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._processes: list[ServiceProcess] = []
        self._signals = 0
        self._signalled = threading.Event()
        # Under nohup a terminal that closes must not stop the services.
        heard = [number for number in _STOP_SIGNALS if number != signal.SIGHUP or not _is_ignored(number)]
        self._handlers = {number: signal.signal(number, self._on_signal) for number in heard}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._stop()
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)

    @property
    def stopping(self) -> bool:
        """Whether a signal has come."""
        return self._signals > 0

    def start(self, name: str, environment: Mapping[str, str]) -> str | None:
        """Start a service; its address once it accepts calls, None when a signal came first.

        Raises:
            InputError: It did not start; the end of its log was shown.
        """
        process = ServiceProcess(name, log=self._logs / f"{name}.log", environment=environment)
        self._processes.append(process)
        give_up = time.monotonic() + START_SECONDS
        while not self._signalled.wait(0.05):
            address = process.address()
            if address is not None:
                return address
            if process.exit_code is not None or time.monotonic() > give_up:
                raise _not_started(process)
        return None

    def wait(self) -> int:
        """The exit code, once a signal has come and the services have drained, or one has ended by itself."""
        while not self._signalled.wait(0.2):
            for process in self._processes:
                if process.exit_code is not None:
                    click.echo(process.last_words(), err=True)
                    raise InputError(f"the {process.name} service has ended; it said the above, see {process.log}")
        click.echo("stopping; running calls may end (Ctrl-C again: at once)", err=True)
        return exit_codes.OK if self._stop() else exit_codes.FAILED

    def _stop(self) -> bool:
        give_up = time.monotonic() + DRAIN_SECONDS
        told = -1
        while any(process.exit_code is None for process in self._processes):
            if self._signals > told:
                told = self._signals
                for process in reversed(self._processes):
                    process.terminate()
            if time.monotonic() > give_up or self._signals > 2:
                for process in self._processes:
                    process.kill()
            time.sleep(0.05)
        return all(process.exit_code == 0 for process in self._processes)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._signals += 1
        self._signalled.set()


def _is_ignored(number: signal.Signals) -> bool:
    return signal.getsignal(number) is signal.SIG_IGN


def _not_started(process: ServiceProcess) -> InputError:
    code = process.exit_code
    how = f"ended with exit code {code}" if code is not None else f"did not answer within {START_SECONDS:g} s"
    click.echo(process.last_words(), err=True)
    return InputError(f"the {process.name} service {how}; it said the above, {process.log} has all of it")
