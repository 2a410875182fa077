"""Settings of the influence service, from `EIF_INFLUENCE_*`. Read once, in `__main__`; see docs/operations.md."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "EIF_INFLUENCE_"


class InfluenceSettings(BaseSettings):
    """Where the service listens, keeps its state and puts results, and how much it does at a time."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", use_attribute_docstrings=True)

    listen: str = "127.0.0.1:50051"
    """`host:port`; port 0 takes a free one."""
    insecure: bool = False
    """Allow an address that other machines can reach, although traffic is plain text."""
    state_dir: Path = Field(default_factory=lambda: Path.home() / ".local" / "state" / "eif" / "influence")
    """The job table, the folders of the job processes and copies of results. One server at a time."""
    output_uri_prefix: str | None = None
    """Where results go when a job does not say. None: each job must say."""
    cache_uri_prefix: str | None = None
    """Features are kept under `<prefix>/features/`. None: under `<output_uri_prefix>/cache/` of each job."""
    embedding_target: str | None = None
    """`host:port` of the embedding service, for relabel jobs with `knn_index`. None: such jobs are refused."""
    max_running_jobs: int = Field(default=1, ge=1, le=64)
    """Jobs that run at the same time, each in a process of its own."""
    max_pending_jobs: int = Field(default=1000, ge=1, le=1_000_000)
    """Jobs that may wait; the next one is refused with QUEUE_FULL."""
    max_attempts: int = Field(default=3, ge=1, le=100)
    """Runs of a job whose process is killed from outside (out of memory, for example) before it fails."""
    cancel_grace_s: float = Field(default=5.0, ge=0)
    """Seconds from the request to stop until a job process is killed."""
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

    @field_validator("embedding_target")
    @classmethod
    def _none_when_empty(cls, target: str | None) -> str | None:
        return target or None

    @field_validator("log_level")
    @classmethod
    def _known_level(cls, level: str) -> str:
        if level.upper() not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
            raise ValueError(f"{level} is not DEBUG, INFO, WARNING or ERROR")
        return level.upper()

    def job_environ(self) -> dict[str, str]:
        """What the job process is told through its environment."""
        values = {"embedding_target": self.embedding_target, "cache_uri_prefix": self.cache_uri_prefix}
        return {f"{PREFIX}{name.upper()}": value for name, value in values.items() if value is not None}
