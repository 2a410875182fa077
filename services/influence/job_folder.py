"""The folder of a job on this machine: `<state dir>/jobs/<uid>/`, with job.json for its process, and its log."""

from __future__ import annotations

import shutil
from pathlib import Path

from services.influence.job import Job
from services.influence.job_log import LOG_NAME, OLD_LOG_NAME
from services.influence.spec import JobRequest

JOB_JSON = "job.json"

_KEPT = {LOG_NAME, OLD_LOG_NAME}


def job_folder(state_dir: Path, uid: str) -> Path:
    """Where a job process works."""
    return state_dir / "jobs" / uid


def prepare_folder(state_dir: Path, job: Job) -> Path:
    """Make the folder of a job, with the job.json of its attempt."""
    folder = job_folder(state_dir, job.uid)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_request(folder, _request(job))
    return folder


def write_request(folder: Path, request: JobRequest) -> None:
    """Write job.json, complete or not at all."""
    partial = folder / f".{JOB_JSON}"
    partial.write_text(request.model_dump_json())
    partial.replace(folder / JOB_JSON)


def read_request(folder: Path) -> JobRequest:
    """What job.json asks for."""
    return JobRequest.model_validate_json((folder / JOB_JSON).read_bytes())


def tidy_folder(state_dir: Path, uid: str) -> None:
    """After its end a job keeps its log and nothing else."""
    folder = job_folder(state_dir, uid)
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name not in _KEPT:
            path.unlink(missing_ok=True)


def remove_folder(state_dir: Path, uid: str) -> None:
    """Remove all of it."""
    shutil.rmtree(job_folder(state_dir, uid), ignore_errors=True)


def job_folders(state_dir: Path) -> set[str]:
    """Uids of the jobs that have a folder here."""
    folder = state_dir / "jobs"
    return {path.name for path in folder.iterdir() if path.is_dir()} if folder.is_dir() else set()


def _request(job: Job) -> JobRequest:
    return JobRequest(
        name=job.name,
        display_name=job.display_name,
        uid=job.uid,
        attempt=job.attempt,
        spec=job.spec,
        output_uri_prefix=job.output_uri_prefix,
        referred=job.referred,
        traceparent=job.traceparent,
    )
