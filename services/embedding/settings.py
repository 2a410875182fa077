"""Settings of the embedding service, from `EIF_EMBEDDING_*`. Read once, in `__main__`; see docs/embedding.md."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from services.common.server_settings import ServerSettings
from services.embedding.session import Device

PREFIX = "EIF_EMBEDDING_"


class EmbeddingSettings(ServerSettings):
    """Where the service listens and keeps its state and indexes, and how much it does at a time."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", use_attribute_docstrings=True)

    listen: str = "127.0.0.1:50052"
    """`host:port`; port 0 takes a free one."""
    state_dir: Path = Field(default_factory=lambda: Path.home() / ".local" / "state" / "eif" / "embedding")
    """What models and indexes there are, copies of the models, and scratch files. One server at a time."""
    index_uri_prefix: str | None = None
    """Where indexes are stored. None: CreateIndex is refused."""
    device: Device = Device.AUTO
    """`auto`: CUDA where it works; `cpu`; `cuda`: refuse to start where it does not."""

    threads: int = Field(default_factory=lambda: len(os.sched_getaffinity(0)), ge=1, le=256)
    """Threads of one model while it computes. Default: the cores of this process."""
    image_threads: int = Field(default_factory=lambda: max(4, len(os.sched_getaffinity(0))), ge=1, le=256)
    """Threads that fetch and decode images. Default: the cores of this process, at least 4."""
    search_threads: int = Field(default=1, ge=1, le=256)
    """Threads of one search; two searches run at a time."""

    max_images_per_request: int = Field(default=32, ge=1, le=1024)
    """Images in one EmbedImages."""
    max_image_bytes: int = Field(default=20 << 20, ge=1)
    """Bytes of one image file."""
    max_image_pixels: int = Field(default=50_000_000, ge=1)
    """Pixels of one image."""
    max_request_bytes: int = Field(default=64 << 20, ge=4 << 20)
    """Bytes of one message. Larger ones are refused by gRPC itself, without a reason."""
    max_pending_images: int = Field(default=256, ge=1)
    """Images of requests that may be in work or wait; the next ones are refused with QUEUE_FULL."""
    max_pending_bytes: int = Field(default=256 << 20, ge=1)
    """Bytes of the images that came inside those requests."""
    max_queries_per_request: int = Field(default=64, ge=1, le=1024)
    """Queries in one SearchNeighbors."""
    max_neighbors: int = Field(default=1000, ge=1, le=10_000)
    """Neighbours of one query."""
    max_pending_queries: int = Field(default=1024, ge=1)
    """Queries that may be in work or wait; the next ones are refused with QUEUE_FULL."""

    max_models: int = Field(default=16, ge=1)
    """Models that are loaded at a time."""
    max_model_bytes: int = Field(default=4 << 30, ge=1)
    """Bytes of the files of one model."""
    probe_memory_bytes: int = Field(default=8 << 30, ge=1 << 30)
    """Address space of the process that loads a model for the first time."""
    probe_seconds: int = Field(default=120, ge=1)
    """Seconds that this process may take."""
    max_index_bytes: int = Field(default=4 << 30, ge=1)
    """Bytes of the vectors of all indexes in memory; a larger index is refused."""
    max_pending_builds: int = Field(default=16, ge=1)
    """Indexes that are built or wait for it."""

    heartbeat_s: float = Field(default=20.0, gt=0, le=30)
    """Seconds after which a watch sends an event although nothing has changed."""
    drain_s: float = Field(default=30.0, ge=0)
    """Seconds that calls have to end after SIGTERM."""
    ready_file: Path | None = None
    """File that is written once calls are accepted, with the address."""
    log_level: str = "INFO"
    """DEBUG, INFO, WARNING or ERROR."""

    @field_validator("index_uri_prefix")
    @classmethod
    def _a_folder(cls, uri: str | None) -> str | None:
        if not uri:
            return None
        if not uri.startswith(("s3://", "file:///")):
            raise ValueError(f"{uri} must start with s3:// or file:///")
        return uri.rstrip("/")

    @field_validator("log_level")
    @classmethod
    def _known_level(cls, level: str) -> str:
        if level.upper() not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
            raise ValueError(f"{level} is not DEBUG, INFO, WARNING or ERROR")
        return level.upper()
