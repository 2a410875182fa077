"""Job processes on this machine."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from services.influence.job_log import JobLog
from services.influence.job_output import MessageReader, drain
from services.influence.orphans import reap_orphan, remember_process
from services.influence.runner import ExitReport, OnMessage

WORKER = (sys.executable, "-m", "services.influence.worker")

_LOG_LINES = 12
_MAX_PROCESSES = 64
_STRAGGLER_S = 2.0

logger = logging.getLogger(__name__)


@dataclass
class _Run:
    """A run under way; its process once there is one."""

    process: subprocess.Popen[bytes] | None = None
    asked_to_stop: bool = False
    kill_timer: asyncio.TimerHandle | None = None


class LocalRunner:
    """Spawns `command <folder>` for each job, in a session of its own.

    The process keeps its standard input open for as long as this server lives: its end tells it that the server died.

    Args:
        environ: The whole environment of the processes.
        secrets: Values that must not be told when the end of a log is.
        command: Started with the folder as its last argument.
        grace_s: From SIGTERM to SIGKILL.
        orphan_patience_s: How long the process of a dead server may take to end by itself.
    """

    def __init__(
        self,
        *,
        environ: Mapping[str, str],
        secrets: Collection[str] = (),
        command: Sequence[str] = WORKER,
        grace_s: float = 5.0,
        orphan_patience_s: float = 15.0,
    ) -> None:
        self._environ = dict(environ)
        self._secrets = tuple(secret for secret in secrets if secret)
        self._command = tuple(command)
        self._grace_s = grace_s
        self._orphan_patience_s = orphan_patience_s
        self._runs: dict[Path, _Run] = {}
        self._waiters = ThreadPoolExecutor(_MAX_PROCESSES, thread_name_prefix="job-process")

    async def run(self, folder: Path, on_message: OnMessage) -> ExitReport:
        if folder in self._runs:
            raise RuntimeError(f"a process runs in {folder} already")
        run = self._runs[folder] = _Run()
        try:
            await self.reap(folder)
            if run.asked_to_stop:
                return ExitReport(asked_to_stop=True)
            return await self._run_process(run, folder, on_message)
        finally:
            del self._runs[folder]

    def cancel(self, folder: Path) -> None:
        run = self._runs.get(folder)
        if run is None or run.asked_to_stop:
            return
        run.asked_to_stop = True
        if run.process is not None:
            self._stop(run)

    async def reap(self, folder: Path) -> None:
        await reap_orphan(folder, patience_s=self._orphan_patience_s)

    async def _run_process(self, run: _Run, folder: Path, on_message: OnMessage) -> ExitReport:
        process = run.process = self._spawn(folder)
        messages, log = MessageReader(on_message), JobLog(folder)
        readers = asyncio.gather(_drain(process.stdout, messages.feed), _drain(process.stderr, log.write))
        try:
            await asyncio.get_running_loop().run_in_executor(self._waiters, process.wait)
        finally:
            _kill_group(process)  # also what the process has left behind
            if run.kill_timer is not None:
                run.kill_timer.cancel()
            await _finish(readers)
            _close(process.stdin)
        return self._report(run, process.wait(), messages, log)

    def _spawn(self, folder: Path) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(  # noqa: S603  the command is configuration, the folder is ours
            [*self._command, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=self._environ,
            start_new_session=True,
        )
        remember_process(folder, process.pid)
        logger.info("job process %d started in %s", process.pid, folder.name)
        return process

    def _stop(self, run: _Run) -> None:
        process = run.process
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        run.kill_timer = asyncio.get_running_loop().call_later(self._grace_s, _kill_group, process)

    def _report(self, run: _Run, code: int, messages: MessageReader, log: JobLog) -> ExitReport:
        return ExitReport(
            last=messages.last,
            exit_code=code if code >= 0 else None,
            signal=_signal_name(-code) if code < 0 else None,
            asked_to_stop=run.asked_to_stop,
            log_tail=log.last_lines(_LOG_LINES, secrets=self._secrets),
        )


async def _drain(pipe: IO[bytes] | None, sink: Callable[[bytes], None]) -> None:
    if pipe is not None:
        await drain(pipe, sink)


async def _finish(readers: asyncio.Future[Any]) -> None:
    """Read what is left in the pipes; a process that has left the group and holds them open is not waited for."""
    with suppress(TimeoutError):
        await asyncio.wait_for(readers, _STRAGGLER_S)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _close(pipe: IO[bytes] | None) -> None:
    if pipe is not None:
        pipe.close()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
