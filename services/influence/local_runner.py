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

from services.influence.device_locks import DeviceLease, DeviceLocks
from services.influence.job_folder import JOB_JSON
from services.influence.job_log import JobLog
from services.influence.job_output import MessageReader, drain
from services.influence.limits import Breach, JobLimits, Watch
from services.influence.messages import Message
from services.influence.orphans import reap_orphan, remember_process
from services.influence.runner import ExitReport, OnMessage
from services.influence.spec import Device, JobRequest

WORKER = (sys.executable, "-m", "services.influence.worker")

_LOG_LINES = 12
_MAX_PROCESSES = 64
_STRAGGLER_S = 2.0
_OOM_SCORE = 500

logger = logging.getLogger(__name__)


@dataclass
class _Run:
    """A run under way; its process once there is one."""

    process: subprocess.Popen[bytes] | None = None
    asked_to_stop: bool = False
    breach: Breach | None = None
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
        limits: What one process may take.
        devices: Hands out the GPUs of this machine. None: jobs take them as they like.
    """

    def __init__(
        self,
        *,
        environ: Mapping[str, str],
        secrets: Collection[str] = (),
        command: Sequence[str] = WORKER,
        grace_s: float = 5.0,
        orphan_patience_s: float = 15.0,
        limits: JobLimits | None = None,
        devices: DeviceLocks | None = None,
    ) -> None:
        self._environ = dict(environ)
        self._secrets = tuple(secret for secret in secrets if secret)
        self._command = tuple(command)
        self._grace_s = grace_s
        self._orphan_patience_s = orphan_patience_s
        self._limits = limits or JobLimits()
        self._devices = devices
        self._runs: dict[Path, _Run] = {}
        self._waiters = ThreadPoolExecutor(_MAX_PROCESSES, thread_name_prefix="job-process")

    async def run(self, folder: Path, on_message: OnMessage) -> ExitReport:
        if folder in self._runs:
            raise RuntimeError(f"a process runs in {folder} already")
        run = self._runs[folder] = _Run()
        try:
            await self.reap(folder)
            device = await self._wait_for_device(run, folder)
            if device is None:
                return ExitReport(asked_to_stop=True)
            try:
                return await self._run_process(run, folder, device, on_message)
            finally:
                device.close()
        finally:
            del self._runs[folder]

    def cancel(self, folder: Path) -> None:
        run = self._runs.get(folder)
        if run is None or run.asked_to_stop:
            return
        run.asked_to_stop = True
        if run.process is not None:
            self._stop(run)

    def leave(self, folder: Path) -> None:
        self.cancel(folder)

    async def reap(self, folder: Path) -> None:
        await reap_orphan(folder, patience_s=self._orphan_patience_s)

    async def _wait_for_device(self, run: _Run, folder: Path) -> DeviceLease | None:
        """The device of the job, or None when the job was told to stop before it was free."""
        if run.asked_to_stop:
            return None
        if self._devices is None:
            return DeviceLease()
        wanted = await asyncio.to_thread(_device_of, folder)
        device = await self._devices.acquire(wanted, unwanted=lambda: run.asked_to_stop)
        if device is not None and run.asked_to_stop:  # meanwhile, and there was no process to tell
            device.close()
            return None
        return device

    async def _run_process(self, run: _Run, folder: Path, device: DeviceLease, on_message: OnMessage) -> ExitReport:
        process = run.process = self._spawn(folder, device)
        device.close()  # the process has it
        watch = Watch(self._limits, process.pid)

        def hand_on(message: Message) -> None:
            watch.saw(message)
            on_message(message)

        messages, log = MessageReader(hand_on), JobLog(folder)
        readers = asyncio.gather(_drain(process.stdout, messages.feed), _drain(process.stderr, log.write))
        watching = asyncio.create_task(self._enforce(run, watch))
        try:
            await asyncio.get_running_loop().run_in_executor(self._waiters, process.wait)
        finally:
            watching.cancel()
            _kill_group(process)  # also what the process has left behind
            if run.kill_timer is not None:
                run.kill_timer.cancel()
            await _finish(readers)
            _close(process.stdin)
        return self._report(run, process.wait(), messages, log)

    async def _enforce(self, run: _Run, watch: Watch) -> None:
        """End the process when it breaks a limit."""
        breach = await watch.breach()
        if run.process is None or run.asked_to_stop:
            return
        logger.warning("job process %d is ended: %s", run.process.pid, breach.message)
        run.breach = breach
        if breach.at_once:
            _kill_group(run.process)
        else:
            self._stop(run)

    def _spawn(self, folder: Path, device: DeviceLease) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(  # noqa: S603  the command is configuration, the folder is ours
            [*self._command, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env={**self._environ, **device.environ},
            start_new_session=True,
            pass_fds=() if device.handle is None else (device.handle,),
        )
        remember_process(folder, process.pid)
        _be_first_to_go(process)
        logger.info("job process %d started in %s", process.pid, folder.name)
        return process

    def _stop(self, run: _Run) -> None:
        process = run.process
        if process is None or process.returncode is not None or run.kill_timer is not None:
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
            breach=run.breach,
            log_tail=log.last_lines(_LOG_LINES, secrets=self._secrets),
        )


def _device_of(folder: Path) -> Device:
    """What job.json asks for. One that cannot be read is the process's to complain about."""
    try:
        return JobRequest.model_validate_json((folder / JOB_JSON).read_bytes()).spec.run.device
    except (OSError, ValueError):
        return Device.CPU


def _be_first_to_go(process: subprocess.Popen[bytes]) -> None:
    """When the machine runs out of memory the kernel is to end the job, and not the server beside it."""
    with suppress(OSError):
        Path(f"/proc/{process.pid}/oom_score_adj").write_text(f"{_OOM_SCORE}\n")


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
