"""Job processes on this machine."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from services.influence.device_locks import DeviceLease, DeviceLocks
from services.influence.job_folder import JOB_JSON
from services.influence.job_log import JobLog
from services.influence.job_output import MessageReader
from services.influence.limits import Breach, JobLimits, Watch
from services.influence.local_process import LocalProcess, signal_name
from services.influence.messages import Message
from services.influence.orphans import reap_orphan
from services.influence.runner import ExitReport, OnMessage, how_it_ended
from services.influence.spec import Device, JobRequest

WORKER = (sys.executable, "-m", "services.influence.worker")

_LOG_LINES = 12
_MAX_PROCESSES = 64

logger = logging.getLogger(__name__)


@dataclass
class _Run:
    """A run under way; its process once there is one."""

    process: LocalProcess | None = None
    asked_to_stop: bool = False
    breach: Breach | None = None


class LocalRunner:
    """Starts `command <folder>` for each job, and ends it when it breaks a limit or is told to stop.

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
            run.process.stop()

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
        def hand_on(message: Message) -> None:
            watch.saw(message)
            on_message(message)

        messages, log = MessageReader(hand_on), JobLog(folder)
        process = run.process = LocalProcess.start(
            self._command,
            folder,
            environ={**self._environ, **device.environ},
            handle=device.handle,
            grace_s=self._grace_s,
            on_output=messages.feed,
            on_log=log.write,
        )
        device.close()  # the process has it
        watch = Watch(self._limits, process.pid)
        watching = asyncio.create_task(_enforce(run, process, watch))
        try:
            code = await process.wait(self._waiters)
        finally:
            watching.cancel()
            await process.close()
        return self._report(run, code, messages, folder, log)

    def _report(self, run: _Run, code: int, messages: MessageReader, folder: Path, log: JobLog) -> ExitReport:
        report = ExitReport(
            last=messages.last,
            exit_code=code if code >= 0 else None,
            signal=signal_name(-code) if code < 0 else None,
            asked_to_stop=run.asked_to_stop,
            breach=run.breach,
            log_tail=log.last_lines(_LOG_LINES, secrets=self._secrets),
        )
        log.note(how_it_ended(report))
        logger.info("%s: %s", folder.name, how_it_ended(report))
        return report


async def _enforce(run: _Run, process: LocalProcess, watch: Watch) -> None:
    """End a process when it breaks a limit."""
    breach = await watch.breach()
    if run.asked_to_stop:
        return
    logger.warning("job process %d is ended: %s", process.pid, breach.message)
    run.breach = breach
    if breach.at_once:
        process.kill()
    else:
        process.stop()


def _device_of(folder: Path) -> Device:
    """What job.json asks for. One that cannot be read is the process's to complain about."""
    try:
        return JobRequest.model_validate_json((folder / JOB_JSON).read_bytes()).spec.run.device
    except (OSError, ValueError):
        return Device.CPU
