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


Message = Annotated[ProgressMessage | SucceededMessage | FailedMessage | CancelledMessage, Field(discriminator="type")]
MESSAGE: TypeAdapter[Message] = TypeAdapter(Message)
"""Parses one line."""
