"""Jobs on a Ray cluster: the same command, as a job of the cluster.

Nothing is shared with the cluster but the object store. What is asked for and what is told travel through a folder of
the run there (run_folder.py), so that any server can go on following a job that another one has submitted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

from services.common.errors import ServiceError
from services.common.storage.base import ObjectStore
from services.influence.job_folder import read_request
from services.influence.job_log import JobLog
from services.influence.limits import JobLimits
from services.influence.ray_cluster import ClusterJob, RayCluster
from services.influence.ray_exit import exit_of, lost
from services.influence.ray_run import RayRun
from services.influence.run_folder import RunFolder
from services.influence.runner import ExitReport, OnMessage, how_it_ended
from services.influence.spec import Device, JobRequest

WORKER = ("python", "-m", "services.influence.worker")

_LOG_LINES = 12
_PREFIX = "eif-"

logger = logging.getLogger(__name__)


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
        cpus: CPUs that the process of a job asks for, and threads that it gets.
        gpus: Jobs that leave the device to the server get a GPU.
        patience_s: How long a cluster may be away before the run counts as lost.
        poll_s: Between two looks.
        command: Started with the URI of the run folder as its last argument.
    """

    def __init__(
        self,
        cluster: RayCluster,
        store: ObjectStore,
        *,
        environ: Mapping[str, str],
        secrets: Collection[str] = (),
        limits: JobLimits | None = None,
        cpus: int = 1,
        gpus: bool = False,
        patience_s: float = 300.0,
        poll_s: float = 1.0,
        command: Sequence[str] = WORKER,
    ) -> None:
        self._cluster, self._store = cluster, store
        self._environ = dict(environ)
        self._secrets = tuple(secret for secret in secrets if secret)
        self._cpus, self._gpus = cpus, gpus
        self._patience_s, self._poll_s = patience_s, poll_s
        self._command = tuple(command)
        self._new_run = partial(RayRun, cluster, limits=limits or JobLimits(), patience_s=patience_s, poll_s=poll_s)
        self._runs: dict[Path, RayRun] = {}
        self._strays: dict[Path, asyncio.Task[None]] = {}

    async def run(self, folder: Path, on_message: OnMessage) -> ExitReport:
        if folder in self._runs:
            raise RuntimeError(f"a job runs for {folder} already")
        run = self._runs[folder] = self._new_run(on_message)
        try:
            await self.reap(folder)
            request = await asyncio.to_thread(read_request, folder)
            job = await run.started(lambda: self._find_or_submit(request))
            if job is not None:
                run_folder = RunFolder(self._store, job.folder_uri)
                job = await run.followed(job, run_folder)
            if job is None:
                if run.asked_to_stop and run.tried:
                    self._stop_stray(folder)
                return ExitReport(asked_to_stop=run.breach is None, breach=run.breach)
            await self._remove(run_folder)
            return self._report(run, job, folder)
        finally:
            del self._runs[folder]

    def cancel(self, folder: Path) -> None:
        run = self._runs.get(folder)
        if run is not None:
            run.stop()
        else:
            self._stop_stray(folder)

    def _stop_stray(self, folder: Path) -> None:
        """See to it, meanwhile, that nothing goes on without us."""
        if folder not in self._strays:
            task = self._strays[folder] = asyncio.create_task(self._stop_all(folder.name))
            task.add_done_callback(lambda _: self._strays.pop(folder, None))

    def leave(self, folder: Path) -> None:
        if (run := self._runs.get(folder)) is not None:
            run.leave()

    async def reap(self, folder: Path) -> None:
        if (stray := self._strays.get(folder)) is not None:
            await asyncio.shield(stray)

    async def _find_or_submit(self, request: JobRequest) -> ClusterJob:
        """The job of the cluster: one that runs already, or a new one."""
        if running := await self._cluster.running(f"{_PREFIX}{request.uid}-"):
            logger.info("%s: goes on as %s of the cluster", request.name, running[0].submission_id)
            return running[0]
        folder = RunFolder.of(self._store, request)
        submission_id = f"{_PREFIX}{request.uid}-{request.attempt}"
        await asyncio.to_thread(folder.write_request, request)
        await self._cluster.submit(
            submission_id,
            [*self._command, folder.uri],
            folder_uri=folder.uri,
            environ=self._environ,
            num_cpus=self._cpus,
            num_gpus=int(_wants_gpu(request, auto=self._gpus)),
        )
        logger.info("%s: submitted as %s", request.name, submission_id)
        return ClusterJob(submission_id=submission_id, status="PENDING", folder_uri=folder.uri)

    async def _remove(self, folder: RunFolder) -> None:
        try:
            await asyncio.to_thread(folder.remove)
        except ServiceError as error:
            logger.warning("the run folder %s was left behind: %s", folder.uri, error.message)

    def _report(self, run: RayRun, job: ClusterJob, folder: Path) -> ExitReport:
        log = JobLog(folder)
        log.note(f"{job.submission_id}: {job.status}. {job.message}")
        code, name = exit_of(job)
        report = ExitReport(
            last=run.last,
            exit_code=code,
            signal=name,
            asked_to_stop=run.asked_to_stop,
            breach=run.breach or lost(job, run.last),
            log_tail=log.last_lines(_LOG_LINES, secrets=self._secrets),
        )
        log.note(how_it_ended(report))
        logger.info("%s: %s", job.submission_id, how_it_ended(report))
        return report

    async def _stop_all(self, uid: str) -> None:
        """End what runs on the cluster for a job that nobody follows here."""
        deadline = asyncio.get_running_loop().time() + self._patience_s
        while asyncio.get_running_loop().time() < deadline:
            try:
                running = await self._cluster.running(f"{_PREFIX}{uid}-")
                for job in running:
                    await self._cluster.stop(job.submission_id)
                if all(job.status == "PENDING" for job in running):  # these end as soon as they begin
                    return
            except ServiceError as error:
                logger.warning("the job of %s on the cluster could not be stopped yet: %s", uid, error.message)
            await asyncio.sleep(self._poll_s)
        logger.error("the job of %s on the cluster could not be stopped: stop it there", uid)


def _wants_gpu(request: JobRequest, *, auto: bool) -> bool:
    device = request.spec.run.device
    return device is Device.CUDA or (device is Device.AUTO and auto)
