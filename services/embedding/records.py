"""Models and indexes as the service keeps them."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from eif_engine.config import NeighborSpace

MAX_LISTED_QUARANTINED = 100


class Record(BaseModel):
    """Immutable; kept as JSON in the registry."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelSpec(Record):
    """What a caller asks for when it creates a model; see Model in resources.proto."""

    name: str
    uri: str
    sha256: str | None = None


class ModelRecord(Record):
    """A model that this server runs.

    Attributes:
        uid: Never used again, also when the name is. Its files are in a folder of this name.
        spec: As created.
        sha256: Of onnx.json.
    """

    uid: str
    spec: ModelSpec
    sha256: str
    embedding_dim: int
    feature_dim: int
    weights_sha256: str
    create_time: datetime

    @property
    def name(self) -> str:
        return self.spec.name


class IndexState(StrEnum):
    """Whether an index can be searched. DELETING is seen by nobody: a restarted server goes on with it."""

    BUILDING = "building"
    READY = "ready"
    FAILED = "failed"
    DELETING = "deleting"


class IndexSpec(Record):
    """What a caller asks for when it creates an index; see Index in resources.proto."""

    name: str
    model: str
    manifest_uri: str
    manifest_sha256: str | None = None
    space: NeighborSpace = NeighborSpace.EMBEDDING
    max_quarantined_fraction: float | None = None


class QuarantinedSample(Record):
    """A sample that could not be read, and why."""

    sample_id: str
    uri: str
    reason: str
    message: str


class Failure(Record):
    """Why a build failed."""

    reason: str
    message: str
    metadata: dict[str, str] = {}


class IndexRecord(Record):
    """An index. Progress is only exact in memory; the registry has what it was at the last change of state.

    Attributes:
        uid: Never used again, also when the name is. What is stored lies in a folder of this name.
        folder: URI of the folder that it is stored in.
        stored_uri: MANIFEST.json; set when and only when the state is READY.
        stored_sha256: Of MANIFEST.json.
    """

    uid: str
    spec: IndexSpec
    folder: str
    state: IndexState = IndexState.BUILDING
    samples_done: int = 0
    samples_total: int = 0
    samples_quarantined: int = 0
    quarantined: tuple[QuarantinedSample, ...] = ()
    dim: int = 0
    failure: Failure | None = None
    stored_uri: str | None = None
    stored_sha256: str | None = None
    create_time: datetime
    update_time: datetime

    @property
    def name(self) -> str:
        return self.spec.name
