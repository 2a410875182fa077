"""From messages about jobs to what the client hands out."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import grpc
from eif.influence.v1 import influence_service_pb2, job_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from services.client.errors import JobCancelled, JobFailed, code_of, info_of
from services.client.jobs import (
    InfluenceServerInfo,
    Job,
    JobError,
    JobOutput,
    JobState,
    OutputFile,
    OutputTable,
    Progress,
)

_STATES = {
    job_pb2.JOB_STATE_PENDING: JobState.PENDING,
    job_pb2.JOB_STATE_RUNNING: JobState.RUNNING,
    job_pb2.JOB_STATE_CANCELLING: JobState.CANCELLING,
    job_pb2.JOB_STATE_SUCCEEDED: JobState.SUCCEEDED,
    job_pb2.JOB_STATE_FAILED: JobState.FAILED,
    job_pb2.JOB_STATE_CANCELLED: JobState.CANCELLED,
}
STATE_VALUES = {state: value for value, state in _STATES.items()}


def job_of(message: job_pb2.InfluenceJob) -> Job:
    """A job."""
    when = _times(message)
    return Job(
        name=message.name,
        uid=message.uid,
        kind=message.WhichOneof("spec") or "",
        state=_STATES.get(message.state, JobState.UNKNOWN),
        display_name=message.display_name,
        labels=dict(message.labels),
        progress=_progress(message.progress) if message.HasField("progress") else None,
        attempt=message.attempt,
        create_time=when("create_time"),
        start_time=when("start_time"),
        end_time=when("end_time"),
        update_time=when("update_time"),
        expire_time=when("expire_time"),
        error=_error(message) if message.HasField("error") else None,
        output=_output(message.output) if message.HasField("output") else None,
        etag=message.etag,
    )


def raise_unless_succeeded(job: Job) -> Job:
    """The job, when it succeeded. Raises JobFailed or JobCancelled when it ended otherwise."""
    if job.state is JobState.FAILED:
        error = job.error or JobError(code="UNKNOWN", reason="INTERNAL", message="the job failed without a reason")
        raise JobFailed(grpc.StatusCode[error.code], error.reason, error.message, error.metadata, job)
    if job.state is JobState.CANCELLED:
        message = job.error.message if job.error and job.error.message else f"{job.name} was cancelled"
        raise JobCancelled(grpc.StatusCode.CANCELLED, "JOB_CANCELLED", message, {"job": job.name}, job)
    return job


def server_info_of(message: influence_service_pb2.ServerInfo) -> InfluenceServerInfo:
    """What the server is."""
    return InfluenceServerInfo(
        version=message.version,
        devices=tuple(message.devices),
        uri_schemes=tuple(message.uri_schemes),
        default_output_uri_prefix=message.default_output_uri_prefix,
        max_running_jobs=message.max_running_jobs,
        max_pending_jobs=message.max_pending_jobs,
    )


def time_of(timestamp: Timestamp) -> datetime:
    """A point in time, in UTC."""
    return timestamp.ToDatetime(tzinfo=UTC)


def _times(message: job_pb2.InfluenceJob) -> Callable[[str], datetime | None]:
    present = {field.name: value for field, value in message.ListFields() if isinstance(value, Timestamp)}
    return lambda name: time_of(present[name]) if name in present else None


def _progress(message: job_pb2.JobProgress) -> Progress:
    return Progress(
        stage=message.stage,
        done=message.done,
        total=message.total,
        unit=message.unit,
        stages_done=message.stages_done,
        stages_total=message.stages_total,
        eta_seconds=message.eta.ToTimedelta().total_seconds() if message.HasField("eta") else None,
    )


def _error(message: job_pb2.InfluenceJob) -> JobError:
    reason, metadata = info_of(message.error)
    return JobError(code=code_of(message.error).name, reason=reason, message=message.error.message, metadata=metadata)


def _output(message: job_pb2.JobOutput) -> JobOutput:
    tables = tuple(
        OutputTable(name=table.name, uri=table.uri, sha256=table.sha256, rows=table.rows) for table in message.tables
    )
    return JobOutput(
        manifest_uri=message.manifest_uri,
        manifest_sha256=message.manifest_sha256,
        tables=tables,
        figures=dict(message.figures),
        provenance=dict(message.provenance),
        files=tuple(
            OutputFile(name=file.name, uri=file.uri, sha256=file.sha256, size_bytes=file.size_bytes)
            for file in message.files
        ),
    )
