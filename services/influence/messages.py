"""What a job process tells the control plane: one JSON object a line on its standard output."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from services.influence.spec import Frozen


class ProgressMessage(Frozen):
    """How far the job is; see JobProgress in job.proto."""

    type: Literal["progress"] = "progress"
    stage: str
    done: int
    total: int
    unit: str
    stages_done: int
    stages_total: int


class SucceededMessage(Frozen):
    """MANIFEST.json is in place. The last message."""

    type: Literal["succeeded"] = "succeeded"
    manifest_uri: str
    manifest_sha256: str


class FailedMessage(Frozen):
    """The job ended without results. The last message."""

    type: Literal["failed"] = "failed"
    reason: str
    message: str
    metadata: dict[str, str] = Field(default_factory=dict)


class CancelledMessage(Frozen):
    """The job stopped because it was told to (SIGTERM). The last message."""

    type: Literal["cancelled"] = "cancelled"


class StorageRequests(Frozen):
    """How often an operation on the object store ended in this way; see MeteredStore."""

    op: str = Field(max_length=32)
    code: str = Field(max_length=64)
    count: int = Field(ge=0)


Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class TotalsMessage(Frozen):
    """What the process has done so far: sent now and then, and before the last message. The newest counts."""

    type: Literal["totals"] = "totals"
    cache_hits: Count = 0
    cache_misses: Count = 0
    storage_requests: tuple[StorageRequests, ...] = Field(default=(), max_length=1024)
    storage_bytes: dict[str, Count] = Field(default_factory=dict, max_length=64)
    storage_seconds: dict[str, Seconds] = Field(default_factory=dict, max_length=64)
    shards_pending: Count = 0
    shards_running: Count = 0
    shard_attempts: dict[str, Count] = Field(default_factory=dict, max_length=64)

    def requests(self) -> dict[tuple[str, str], int]:
        """Requests by operation and code."""
        return {(each.op, each.code): each.count for each in self.storage_requests}


Message = Annotated[
    ProgressMessage | TotalsMessage | SucceededMessage | FailedMessage | CancelledMessage, Field(discriminator="type")
]
MESSAGE: TypeAdapter[Message] = TypeAdapter(Message)
"""Parses one line."""
