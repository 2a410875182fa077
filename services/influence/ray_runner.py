"""Jobs on a Ray cluster: the same command, as a job of the cluster.

Nothing is shared with the cluster but the object store. What is asked for and what is told travel through a folder of
the run there (run_folder.py), so that any server can go on following a job that another one has submitted.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from services.common.errors import ServiceError
from services.common.storage.base import ObjectStore
from services.influence.job_folder import read_request
from services.influence.job_log import JobLog
from services.influence.limits import Breach, JobLimits, Watch
from services.influence.messages import Message, ProgressMessage, TotalsMessage
from services.influence.ray_cluster import ClusterJob, RayCluster
from services.influence.run_folder import RunFolder
from services.influence.runner import ExitReport, LastMessage, OnMessage
from services.influence.spec import Device, JobRequest

WORKER = ("python", "-m", "services.influence.worker")

_LOG_LINES = 12
_PREFIX = "eif-"

logger = logging.getLogger(__name__)


@dataclass
class _Run:
    """A run under way."""

    asked_to_stop: bool = False
    left: bool = False
    told_to_stop: bool = False
    breach: Breach | None = None
    seen: list[Message] = field(default_factory=list)
    last: LastMessage | None = None
    away_since: float | None = None
    wake: asyncio.Event = field(default_factory=asyncio.Event)


class RayRunner:
    """Submits `command <run folder>` for each job, and follows it.

    A job of the cluster is found again by its id, which holds the uid of our job: a server that starts again, or takes
    a job over from another, goes on with what runs and starts no second one.

    Args:
        cluster: Runs them.
        store: Where run folders lie; the cluster has the same one.
        environ: Settings for the processes. The cluster shows them to everybody who may see its jobs: no secrets.
        secrets: Values that must not be told when the end of a log is.
        limits: What one job may take; its memory is the cluster's to watch.
        gpus: Jobs that leave the device to the server get a GPU.
        patience_s: How long a cluster may be away before the run counts as lost.
        poll_s: Between two looks.
    """

    def __init__(
        self,
        cluster: RayCluster,
        store: ObjectStore,
        *,
        environ: Mapping[str, str],
        secrets: Collection[str] = (),
        limits: JobLimits | None = None,
        gpus: bool = False,
        patience_s: float = 300.0,
        poll_s: float = 1.0,
        command: Sequence[str] = WORKER,
    ) -> None:
        self._cluster, self._store = cluster, store
        self._environ = dict(environ)
        self._secrets = tuple(secret for secret in secrets if secret)
        self._limits = limits or JobLimits()
        self._gpus, self._patience_s, self._poll_s = gpus, patience_s, poll_s
        self._command = tuple(command)
        self._runs: dict[Path, _Run] = {}
        self._strays: dict[Path, asyncio.Task[None]] = {}

    async def run(self, folder: Path, on_message: OnMessage) -> ExitReport:
        if folder in self._runs:
            raise RuntimeError(f"a job runs for {folder} already")
        run = self._runs[folder] = _Run()
        try:
            await self.reap(folder)
            request = await asyncio.to_thread(read_request, folder)
            job = await self._started(run, request)
            if job is None:
                return ExitReport(asked_to_stop=run.breach is None, breach=run.breach)
            return await self._follow(run, job, folder, on_message)
        finally:
            del self._runs[folder]

    def cancel(self, folder: Path) -> None:
        run = self._runs.get(folder)
        if run is not None:
            run.asked_to_stop = True
            run.wake.set()
        elif folder not in self._strays:
            task = self._strays[folder] = asyncio.create_task(self._stop_all(folder.name))
            task.add_done_callback(lambda _: self._strays.pop(folder, None))

    def leave(self, folder: Path) -> None:
        if (run := self._runs.get(folder)) is not None:
            run.left = True
            run.wake.set()

    async def reap(self, folder: Path) -> None:
        if (stray := self._strays.get(folder)) is not None:
            await asyncio.shield(stray)

    async def _started(self, run: _Run, request: JobRequest) -> ClusterJob | None:
        """The job of the cluster: one that runs already, or a new one. None when there is to be none."""
        while not (run.asked_to_stop or run.left):
            try:
                if running := await self._cluster.running(f"{_PREFIX}{request.uid}-"):
                    logger.info("%s: goes on as %s of the cluster", request.name, running[0].submission_id)
                    return running[0]
                return await self._submit(request)
            except ServiceError as error:
                if self._gone_for_good(run, error):
                    return None
            await self._pause(run)
        return None

    async def _submit(self, request: JobRequest) -> ClusterJob:
        folder = RunFolder.of(self._store, request)
        submission_id = f"{_PREFIX}{request.uid}-{request.attempt}"
        await asyncio.to_thread(folder.write_request, request)
        await self._cluster.submit(
            submission_id,
            [*self._command, folder.uri],
            folder_uri=folder.uri,
            environ=self._environ,
            num_gpus=int(_wants_gpu(request, auto=self._gpus)),
        )
        logger.info("%s: submitted as %s", request.name, submission_id)
        return ClusterJob(submission_id=submission_id, status="PENDING", folder_uri=folder.uri)

    async def _follow(self, run: _Run, job: ClusterJob, folder: Path, on_message: OnMessage) -> ExitReport:
        run_folder = RunFolder(self._store, job.folder_uri)
        watch: Watch | None = None
        while not job.ended:
            if run.left and not run.asked_to_stop:
                return ExitReport(asked_to_stop=True)
            try:
                await self._tell_to_stop(run, job, watch)
                job = await self._look(job)
                for message in await asyncio.to_thread(run_folder.read_messages):
                    self._take(run, watch, message, on_message)
                run.away_since = None
            except ServiceError as error:
                if self._gone_for_good(run, error):
                    return ExitReport(breach=run.breach)
            if watch is None and job.status == "RUNNING":
                watch = Watch(self._limits, 0, age_s=job.age_s)
            if not job.ended:
                await self._pause(run)
        return await self._ended(run, job, run_folder, folder, on_message)

    async def _look(self, job: ClusterJob) -> ClusterJob:
        found = await self._cluster.find(job.submission_id)
        if found is not None:
            return found
        return ClusterJob(
            submission_id=job.submission_id,
            status="FAILED",
            folder_uri=job.folder_uri,
            message="the cluster does not know the job any more",
        )

    def _take(self, run: _Run, watch: Watch | None, message: Message, on_message: OnMessage) -> None:
        """Hand on what was not said before; messages stay where they are until newer ones take their place."""
        if message in run.seen:
            return
        run.seen = [other for other in run.seen if type(other) is not type(message)] + [message]
        if watch is not None:
            watch.saw(message)
        if not isinstance(message, ProgressMessage | TotalsMessage):
            run.last = message
        on_message(message)

    async def _tell_to_stop(self, run: _Run, job: ClusterJob, watch: Watch | None) -> None:
        if watch is not None and run.breach is None and not run.asked_to_stop:
            run.breach = watch.out_of_time() or watch.stalled()
        if (run.asked_to_stop or run.breach is not None) and not run.told_to_stop:
            await self._cluster.stop(job.submission_id)
            run.told_to_stop = True

    async def _ended(
        self, run: _Run, job: ClusterJob, run_folder: RunFolder, folder: Path, on_message: OnMessage
    ) -> ExitReport:
        try:
            for message in await asyncio.to_thread(run_folder.read_messages):
                self._take(run, None, message, on_message)
            await asyncio.to_thread(run_folder.remove)
        except ServiceError as error:
            logger.warning("the run folder %s was left behind: %s", run_folder.uri, error.message)
        log = JobLog(folder)
        log.write(f"{job.submission_id}: {job.status}. {job.message}\n".encode())
        code, name = exit_of(job)
        return ExitReport(
            last=run.last,
            exit_code=code,
            signal=name,
            asked_to_stop=run.asked_to_stop,
            breach=run.breach or lost(job, run.last),
            log_tail=log.last_lines(_LOG_LINES, secrets=self._secrets),
        )

    def _gone_for_good(self, run: _Run, error: ServiceError) -> bool:
        """Whether cluster or store have been away for longer than one waits; notes why."""
        now = asyncio.get_running_loop().time()
        run.away_since = run.away_since or now
        if now - run.away_since <= self._patience_s:
            return False
        what = f"{error.message}, for {self._patience_s:g} s"
        run.breach = run.breach or Breach(reason=error.reason, message=what, metadata=error.metadata, again=True)
        return True

    async def _pause(self, run: _Run) -> None:
        if run.told_to_stop:
            run.wake.clear()
        try:
            async with asyncio.timeout(self._poll_s):
                await run.wake.wait()
        except TimeoutError:
            return
        run.wake.clear()

    async def _stop_all(self, uid: str) -> None:
        """End what runs on the cluster for a job that nobody follows here."""
        deadline = asyncio.get_running_loop().time() + self._patience_s
        while asyncio.get_running_loop().time() < deadline:
            try:
                running = await self._cluster.running(f"{_PREFIX}{uid}-")
                if not running:
                    return
                for job in running:
                    await self._cluster.stop(job.submission_id)
            except ServiceError as error:
                logger.warning("the job of %s on the cluster could not be stopped yet: %s", uid, error.message)
            await asyncio.sleep(self._poll_s)
        logger.error("the job of %s on the cluster could not be stopped: stop it there", uid)


def _wants_gpu(request: JobRequest, *, auto: bool) -> bool:
    device = request.spec.run.device
    return device is Device.CUDA or (device is Device.AUTO and auto)


def exit_of(job: ClusterJob) -> tuple[int | None, str | None]:
    """Exit code or signal. The shell that starts the command adds 128 to the number of a signal."""
    code = job.exit_code
    if code is None:
        return (0 if job.status == "SUCCEEDED" else None), ("SIGTERM" if job.status == "STOPPED" else None)
    number = -code if code < 0 else code - 128
    if code < 0 or number in {signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS}:
        return None, signal.Signals(number).name
    return code, None


def lost(job: ClusterJob, last: LastMessage | None) -> Breach | None:
    """A process that neither ended nor was stopped: its node is gone, or the cluster has forgotten it."""
    if job.status != "FAILED" or job.exit_code is not None or last is not None:
        return None
    what = "the process of the job was lost with its node, or the cluster could not start it; its log says more"
    return Breach(reason="WORKER_CRASHED", message=what, again=True)
