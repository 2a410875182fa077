"""Settings of the influence service, from `EIF_INFLUENCE_*`. Read once, in `__main__`; see docs/operations.md."""

from __future__ import annotations

import tempfile
from datetime import timedelta
from pathlib import Path

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from services.common.server_settings import ServerSettings
from services.influence.embedding_connection import EmbeddingConnection
from services.influence.quotas import Quotas

PREFIX = "EIF_INFLUENCE_"


class InfluenceSettings(ServerSettings, EmbeddingConnection):
    """Where the service listens, keeps its state and puts results, and how much it does at a time."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", use_attribute_docstrings=True)

    listen: str = "127.0.0.1:50051"
    """`host:port`; port 0 takes a free one."""
    state_dir: Path = Field(default_factory=lambda: Path.home() / ".local" / "state" / "eif" / "influence")
    """The job table, the folders of the job processes and copies of results. One server at a time."""
    database_url: SecretStr | None = None
    """`postgresql://user:password@host/database` of a job table that several servers share. None: SQLite in
    `state_dir`."""
    output_uri_prefix: str | None = None
    """Where results go when a job does not say. None: each job must say."""
    cache_uri_prefix: str | None = None
    """Features are kept under `<prefix>/features/`. None: under `<output_uri_prefix>/cache/` of each job."""
    max_running_jobs: int = Field(default=1, ge=1, le=64)
    """Jobs that run at the same time, each in a process of its own."""
    max_pending_jobs: int = Field(default=1000, ge=1, le=1_000_000)
    """Jobs that may wait; the next one is refused with QUEUE_FULL."""
    max_running_jobs_per_project: int = Field(default=0, ge=0, le=1_000_000)
    """Jobs of one project that run at the same time, on all servers. 0: no limit."""
    max_pending_jobs_per_project: int = Field(default=0, ge=0, le=1_000_000)
    """Jobs of one project that may wait; the next one is refused with QUEUE_FULL. 0: no limit."""
    lease_s: float = Field(default=60.0, ge=2, le=3600)
    """Seconds after which other servers take over the jobs of one that does not renew its leases."""
    job_ttl_days: float = Field(default=0.0, ge=0, le=36_500)
    """Days after its end when a job is deleted with its results. 0: never."""
    max_attempts: int = Field(default=3, ge=1, le=100)
    """Runs of a job whose process is killed from outside (out of memory, for example) before it fails."""
    cancel_grace_s: float = Field(default=5.0, ge=0)
    """Seconds from the request to stop until a job process is killed."""
    max_job_memory_bytes: int | None = Field(default=None, ge=1)
    """Memory of one job process; it is ended with OUT_OF_MEMORY when it takes more. None: what the machine has."""
    job_time_limit_s: float = Field(default=7 * 86_400.0, gt=0)
    """Seconds that one run of a job may take; then it is ended with TIME_LIMIT_EXCEEDED."""
    job_stall_s: float | None = Field(default=None, gt=0)
    """Seconds without progress after which a job process is ended and run again, JOB_STALLED at last. None: never."""
    device_lock_dir: Path = Field(default_factory=lambda: Path(tempfile.gettempdir()) / "eif-devices")
    """Locks of the GPUs, one job each; the same folder for every server of a machine."""
    ray_address: str | None = None
    """Job server of a Ray cluster, `http://host:8265`: jobs run there. None: on this machine. See docs/ray.md."""
    ray_cpus: int = Field(default=1, ge=1, le=4096)
    """CPUs of the cluster that the process of a job gets, and threads for what is not in shards."""
    ray_gpus: bool = False
    """The cluster has GPUs: jobs that leave the device to the server get one."""
    ray_patience_s: float = Field(default=300.0, ge=0)
    """Seconds that the cluster may be away before a run on it counts as lost."""
    shards_in_flight: int = Field(default=16, ge=1, le=10_000)
    """Shards of one job that are given to the cluster at a time: as many as it should have processes at work."""
    heartbeat_s: float = Field(default=20.0, gt=0, le=30)
    """Seconds after which a watch sends an event although nothing has changed."""
    result_cache_bytes: int = Field(default=2 << 30, ge=0)
    """Copies of result tables under `state_dir`; the least recently used go first."""
    max_table_bytes: int = Field(default=16 << 30, ge=1)
    """Of one result table."""
    drain_s: float = Field(default=30.0, ge=0)
    """Seconds that calls have to end after SIGTERM."""
    ready_file: Path | None = None
    """Written with the address once calls are accepted."""
    log_level: str = "INFO"
    """DEBUG, INFO, WARNING or ERROR."""

    @field_validator("output_uri_prefix", "cache_uri_prefix")
    @classmethod
    def _a_folder(cls, uri: str | None) -> str | None:
        if uri is None or not uri:
            return None
        if not uri.startswith(("s3://", "file:///")):
            raise ValueError(f"{uri} must start with s3:// or file:///")
        return uri.rstrip("/")

    @field_validator("database_url")
    @classmethod
    def _of_postgresql(cls, url: SecretStr | None) -> SecretStr | None:
        if url is None or not url.get_secret_value():
            return None
        if not url.get_secret_value().startswith("postgresql://"):
            raise ValueError("it must start with postgresql://, or be empty for SQLite in the state folder")
        return url

    @field_validator("ray_address")
    @classmethod
    def _a_job_server(cls, address: str | None) -> str | None:
        if address and not address.startswith(("http://", "https://")):
            raise ValueError("it must start with http:// or https://")
        return address or None

    @field_validator("log_level")
    @classmethod
    def _known_level(cls, level: str) -> str:
        if level.upper() not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
            raise ValueError(f"{level} is not DEBUG, INFO, WARNING or ERROR")
        return level.upper()

    @property
    def quotas(self) -> Quotas:
        """How many jobs are taken and run."""
        return Quotas(
            max_running=self.max_running_jobs,
            max_running_per_project=self.max_running_jobs_per_project,
            max_pending=self.max_pending_jobs,
            max_pending_per_project=self.max_pending_jobs_per_project,
            max_attempts=self.max_attempts,
            lease_s=self.lease_s,
        )

    @property
    def job_ttl(self) -> timedelta | None:
        """How long ended jobs are kept; None: for ever."""
        return timedelta(days=self.job_ttl_days) if self.job_ttl_days else None

    def job_environ(self) -> dict[str, str]:
        """What the job process is told through its environment."""
        cache = {f"{PREFIX}CACHE_URI_PREFIX": self.cache_uri_prefix} if self.cache_uri_prefix else {}
        return {**self.embedding_environ(PREFIX), **cache}
