"""Between the protos of the influence service and the domain; requests are checked on the way in."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from eif.influence.v1 import influence_service_pb2 as service_pb2
from eif.influence.v1 import job_pb2
from google.protobuf import duration_pb2, timestamp_pb2
from google.rpc import status_pb2

from services.common.errors import STATUS_BY_REASON, ServiceError
from services.common.rpc_errors import status_of
from services.influence.clock import now
from services.influence.enum_maps import STATES
from services.influence.job import Job, JobError, JobOutput, JobState
from services.influence.jobs import JobEvent
from services.influence.messages import ProgressMessage
from services.influence.names import check_job_id, invalid, parse_job_name, parse_parent, parse_request_id, shown
from services.influence.new_job import NewJob
from services.influence.server_info import ServerInfo
from services.influence.spec import AuditSpec, ExplainSpec, RankSpec, RelabelSpec
from services.influence.spec_reader import read_spec
from services.influence.spec_writer import write_audit, write_explain, write_rank, write_relabel

DOMAIN = "influence.eif.dev"
"""Of ErrorInfo."""

MAX_DISPLAY_NAME = 128
MAX_LABELS = 64
MAX_LABEL = 64

_MAX_COUNT = 2**63 - 1


def read_new_job(request: service_pb2.CreateInfluenceJobRequest) -> NewJob:
    """What is asked for. Raises ARGUMENT_INVALID that names the field; what only the server sets is left out."""
    job = request.influence_job
    project = parse_parent(request.parent)
    if request.influence_job_id:
        check_job_id(request.influence_job_id, field="influence_job_id")
    if len(job.display_name) > MAX_DISPLAY_NAME:
        raise invalid("influence_job.display_name", f"it has more than {MAX_DISPLAY_NAME} characters")
    return NewJob(
        project=project,
        spec=read_spec(job),
        job_id=request.influence_job_id or None,
        request_id=parse_request_id(request.request_id) if request.request_id else None,
        validate_only=request.validate_only,
        display_name=job.display_name,
        labels=_labels(dict(job.labels)),
        output_uri_prefix=job.output_uri_prefix or None,
    )


def read_job_name(name: str) -> str:
    """The name of a job. Raises ARGUMENT_INVALID."""
    return str(parse_job_name(name))


def read_states(states: Iterable[job_pb2.JobState.ValueType]) -> frozenset[JobState]:
    """The states to list. Raises ARGUMENT_INVALID."""
    return frozenset(STATES.read(state, "states") for state in states)


def read_count(value: int, field: str) -> int:
    """A number of rows or jobs, 0 for the default. Raises ARGUMENT_INVALID below 0."""
    if value < 0:
        raise invalid(field, f"{value} is below 0; 0 means the default")
    return value


def write_job(job: Job) -> job_pb2.InfluenceJob:
    """The resource."""
    return job_pb2.InfluenceJob(
        name=job.name,
        uid=job.uid,
        display_name=job.display_name,
        rank=write_rank(job.spec) if isinstance(job.spec, RankSpec) else None,
        relabel=write_relabel(job.spec) if isinstance(job.spec, RelabelSpec) else None,
        audit=write_audit(job.spec) if isinstance(job.spec, AuditSpec) else None,
        explain=write_explain(job.spec) if isinstance(job.spec, ExplainSpec) else None,
        output_uri_prefix=job.output_uri_prefix,
        labels=job.labels,
        state=STATES.write(job.state),
        progress=_progress(job.progress, job.eta_s) if job.progress else None,
        attempt=job.attempt,
        create_time=_time(job.create_time),
        start_time=_time(job.start_time),
        end_time=_time(job.end_time),
        update_time=_time(job.update_time),
        error=_error(job.error) if job.error else None,
        output=_output(job, job.output) if job.output else None,
        etag=job.etag,
        expire_time=_time(job.expire_time),
    )


def write_event(event: JobEvent) -> service_pb2.InfluenceJobEvent:
    """An event of a watch, sent now."""
    return service_pb2.InfluenceJobEvent(
        influence_job=write_job(event.job), heartbeat=event.heartbeat, event_time=_time(now())
    )


def write_server_info(info: ServerInfo) -> service_pb2.ServerInfo:
    """What the server is."""
    return service_pb2.ServerInfo(
        version=info.version,
        devices=info.devices,
        uri_schemes=info.uri_schemes,
        default_output_uri_prefix=info.output_uri_prefix or "",
        max_running_jobs=info.max_running_jobs,
        max_pending_jobs=info.max_pending_jobs,
    )


def _labels(labels: dict[str, str]) -> dict[str, str]:
    if len(labels) > MAX_LABELS:
        raise invalid("influence_job.labels", f"there are {len(labels)}, and at most {MAX_LABELS} are allowed")
    for key, value in labels.items():
        if not key or len(key) > MAX_LABEL or len(value) > MAX_LABEL:
            raise invalid(
                f"influence_job.labels[{shown(key)}]",
                f"key and value may have {MAX_LABEL} characters, the key at least 1",
            )
    return labels


def _progress(progress: ProgressMessage, eta_s: float | None) -> job_pb2.JobProgress:
    return job_pb2.JobProgress(
        stage=progress.stage[:64],
        done=_count(progress.done),
        total=_count(progress.total),
        unit=progress.unit[:64],
        stages_done=_count(progress.stages_done) & 0x7FFFFFFF,
        stages_total=_count(progress.stages_total) & 0x7FFFFFFF,
        eta=None if eta_s is None else _duration(eta_s),
    )


def _count(value: int) -> int:
    """A job process is not trusted to keep to what fits."""
    return max(0, min(value, _MAX_COUNT))


def _error(error: JobError) -> status_pb2.Status:
    reason = error.reason if error.reason in STATUS_BY_REASON else "INTERNAL"
    return status_of(ServiceError(reason, error.message, **error.metadata), DOMAIN)


def _output(job: Job, output: JobOutput) -> job_pb2.JobOutput:
    manifest = output.manifest
    return job_pb2.JobOutput(
        manifest_uri=job.manifest_uri,
        manifest_sha256=output.manifest_sha256,
        tables=[
            job_pb2.OutputTable(name=name, uri=f"{job.folder_uri}/{entry.file}", sha256=entry.sha256, rows=entry.rows)
            for name, entry in manifest.tables.items()
        ],
        files=[
            job_pb2.OutputFile(
                name=name, uri=f"{job.folder_uri}/{entry.file}", sha256=entry.sha256, size_bytes=entry.bytes
            )
            for name, entry in manifest.files.items()
        ],
        figures=manifest.figures,
        provenance=manifest.provenance,
    )


def _time(time: datetime | None) -> timestamp_pb2.Timestamp | None:
    if time is None:
        return None
    timestamp = timestamp_pb2.Timestamp()
    timestamp.FromDatetime(time)
    return timestamp


def _duration(seconds: float) -> duration_pb2.Duration:
    duration = duration_pb2.Duration()
    duration.FromMilliseconds(min(int(seconds * 1000), _MAX_COUNT // 10**6))
    return duration
