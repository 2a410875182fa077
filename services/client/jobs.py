"""A job as the client sees it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class JobState(StrEnum):
    """Where a job stands."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    CANCELLING = "CANCELLING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    UNKNOWN = "UNKNOWN"
    """A state that is newer than this client."""

    @property
    def is_terminal(self) -> bool:
        """Whether the job stays in this state for ever."""
        return self in {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a job is: `done` of `total` units (0: not known) of one stage, and an estimate of its end in seconds."""

    stage: str
    done: int
    total: int
    unit: str
    stages_done: int
    stages_total: int
    eta_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class OutputTable:
    """One Parquet table among the results."""

    name: str
    uri: str
    sha256: str
    rows: int


@dataclass(frozen=True, kw_only=True)
class OutputFile:
    """A file among the results that is not a table, such as `report.html`."""

    name: str
    uri: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class JobOutput:
    """Where the results of a succeeded job are, and how they came about."""

    manifest_uri: str
    manifest_sha256: str
    tables: tuple[OutputTable, ...]
    figures: dict[str, float] = field(default_factory=dict)
    provenance: dict[str, str] = field(default_factory=dict)
    files: tuple[OutputFile, ...] = ()


@dataclass(frozen=True, kw_only=True)
class JobError:
    """Why a job has no results: the frozen reason, and a message for people."""

    code: str
    reason: str
    message: str
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job, as it was when the server sent it. Times are in UTC.

    Attributes:
        name: `projects/{project}/influenceJobs/{influence_job}`.
        kind: `rank`, `relabel`, `audit` or `explain`.
        error: Set when it failed or was cancelled.
        output: Set when and only when it succeeded.
        expire_time: When it will be deleted with its results; None where the server keeps jobs for ever.
    """

    name: str
    uid: str
    kind: str
    state: JobState
    display_name: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    progress: Progress | None = None
    attempt: int = 0
    create_time: datetime | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    update_time: datetime | None = None
    expire_time: datetime | None = None
    error: JobError | None = None
    output: JobOutput | None = None
    etag: str = ""

    @property
    def job_id(self) -> str:
        """Last segment of the name."""
        return self.name.rpartition("/")[2]


@dataclass(frozen=True, kw_only=True)
class InfluenceServerInfo:
    """What an influence server is and what its limits are."""

    version: str
    devices: tuple[str, ...]
    uri_schemes: tuple[str, ...]
    default_output_uri_prefix: str
    max_running_jobs: int
    max_pending_jobs: int
