"""Settings of the job process, from `EIF_INFLUENCE_*`. Read once, in `__main__`; the control plane passes them on."""

from __future__ import annotations

import os
from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.influence.embedding_connection import EmbeddingConnection


class WorkerSettings(EmbeddingConnection):
    """What a job process may use, and where it finds the rest of the system."""

    model_config = SettingsConfigDict(env_prefix="EIF_INFLUENCE_", frozen=True, extra="ignore")

    embedding_timeout_s: float = Field(default=60.0, gt=0)
    """Deadline of one call."""
    embedding_patience_s: float = Field(default=60.0, ge=0)
    """How long an embedding service that is away is called again before the job fails."""
    storage_patience_s: float = Field(default=300.0, ge=0)
    """How long one request to an object store that is away is repeated before the job fails."""
    cache_uri_prefix: str | None = None
    """Features lie under `<prefix>/features/`. None: under `<output_uri_prefix>/cache/features/` of the job."""
    cache_shard_samples: int = Field(default=1024, ge=1, le=65_536)
    """Samples in one stored shard of features."""
    score_shard_samples: int = Field(default=262_144, ge=1)
    """Training samples in one shard of scores; a job of more keeps the scores of each, and can give it to a cluster."""
    memory_budget_bytes: int | None = Field(default=None, ge=1)
    """What a job may use. None: what the machine, the control group and `ulimit -v` leave."""
    read_threads: int = Field(default=8, ge=1, le=256)
    """Threads that read images from the store."""
    decode_threads: int = Field(default_factory=lambda: min(8, os.cpu_count() or 1), ge=1, le=256)
    """Threads that decode images."""
    executor: Literal["process", "ray"] = "process"
    """Where shards are worked on: in the job process, or as tasks of the Ray cluster that it runs on."""
    shards_in_flight: int = Field(default=16, ge=1, le=10_000)
    """Shards that are given to the cluster at a time; as many as it should have devices at work."""
    lock_timeout_s: float = Field(default=60.0, ge=0)
    """How long an older attempt of the same job may take to end."""
    max_manifest_bytes: int = Field(default=4 << 30, ge=1)
    """Of a manifest."""
    max_weights_bytes: int = Field(default=8 << 30, ge=1)
    """Of one file of a model bundle."""
