"""Models, indexes and neighbours as the client sees them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Space(StrEnum):
    """The spaces a model can embed into; vectors of both are L2-normalised."""

    EMBEDDING = "embedding"
    PENULTIMATE = "penultimate"


class IndexState(StrEnum):
    """Whether an index can be searched."""

    BUILDING = "BUILDING"
    READY = "READY"
    FAILED = "FAILED"
    UNKNOWN = "UNKNOWN"
    """A state that is newer than this client."""

    @property
    def is_terminal(self) -> bool:
        """Whether the build has ended."""
        return self in {IndexState.READY, IndexState.FAILED}


@dataclass(frozen=True, kw_only=True)
class Model:
    """An ONNX model that is loaded; `feature_dim` is 0 when it gives no penultimate features."""

    name: str
    uri: str
    sha256: str
    embedding_dim: int
    feature_dim: int
    weights_sha256: str
    execution_provider: str
    create_time: datetime | None = None

    @property
    def model_id(self) -> str:
        """Last segment of the name."""
        return self.name.rpartition("/")[2]


@dataclass(frozen=True, kw_only=True)
class UnreadableSample:
    """A sample that is not in the index, and why."""

    sample_id: str
    uri: str
    reason: str
    message: str


@dataclass(frozen=True, kw_only=True)
class BuildError:
    """Why a build failed: the frozen reason, and a message for people."""

    code: str
    reason: str
    message: str
    metadata: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Index:
    """A named index of the samples of a manifest.

    Attributes:
        samples_total: 0 while it is not known.
        quarantined: The first 100 samples that could not be read.
        error: Set when the build failed.
        stored_uri: MANIFEST.json of the stored index; empty until it is READY.
    """

    name: str
    model: str
    manifest_uri: str
    space: Space
    state: IndexState
    samples_done: int = 0
    samples_total: int = 0
    samples_quarantined: int = 0
    quarantined: tuple[UnreadableSample, ...] = ()
    dim: int = 0
    error: BuildError | None = None
    stored_uri: str = ""
    create_time: datetime | None = None
    update_time: datetime | None = None

    @property
    def index_id(self) -> str:
        """Last segment of the name."""
        return self.name.rpartition("/")[2]


@dataclass(frozen=True, kw_only=True)
class ByVector:
    """Look for the neighbours of a vector in the space of the index."""

    values: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class ByImage:
    """Look for the neighbours of an image: its encoded bytes, or its URI in the object store."""

    image: bytes | str


@dataclass(frozen=True, kw_only=True)
class BySample:
    """Look for the neighbours of an entry of the index; it is never among them."""

    sample_id: str


SearchQuery = ByVector | ByImage | BySample


@dataclass(frozen=True, kw_only=True, slots=True)
class Neighbor:
    """An entry of an index; `distance` is the squared Euclidean distance of L2-normalised vectors, in [0, 4]."""

    sample_id: str
    distance: float
    label: str


@dataclass(frozen=True, kw_only=True)
class EmbeddingServerInfo:
    """What an embedding server is, what it runs on and what its limits are."""

    version: str
    execution_provider: str
    available_providers: tuple[str, ...]
    uri_schemes: tuple[str, ...]
    max_images_per_request: int
    max_image_bytes: int
    max_image_pixels: int
    max_queries_per_request: int
    max_neighbors: int
