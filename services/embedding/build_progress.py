"""How far a build is, what it may take, and when it has lost too much."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from eif_engine.data.images import ImageLimits
from eif_engine.errors import MemoryExceeded, TooManyQuarantined
from services.embedding.records import MAX_LISTED_QUARANTINED, IndexSpec, QuarantinedSample

if TYPE_CHECKING:
    from pathlib import Path

    from eif_engine.types import Quarantined
    from services.embedding.stored_index import IndexManifest

DEFAULT_MAX_QUARANTINED_FRACTION = 0.01
_MAX_LISTED_MESSAGE = 300


class BuildCancelled(Exception):
    """The build was told to stop."""


@dataclass(frozen=True, kw_only=True)
class BuildLimits:
    """What a build may take.

    Attributes:
        max_index_bytes: Of the vectors in memory.
        images: Of one image.
        batch: Images that are embedded together.
        image_threads: That decode; as many read.
    """

    max_index_bytes: int = 4 << 30
    images: ImageLimits = field(default_factory=ImageLimits)
    batch: int = 32
    image_threads: int = 4


@dataclass
class BuildProgress:
    """Samples embedded, in all, and set aside (of which the first are listed), and the size of their vectors."""

    dim: int
    done: int = 0
    total: int = 0
    quarantined: int = 0
    listed: list[QuarantinedSample] = field(default_factory=list)

    def set_aside(self, sample: Quarantined) -> None:
        self.quarantined += 1
        if len(self.listed) < MAX_LISTED_QUARANTINED:
            self.listed.append(
                QuarantinedSample(
                    sample_id=sample.sample_id,
                    uri=sample.uri,
                    reason=sample.reason,
                    message=sample.message[:_MAX_LISTED_MESSAGE],
                )
            )


@dataclass(frozen=True, kw_only=True)
class BuiltIndex:
    """The outcome: the manifest as stored, its sha256, and the file of vectors, still on this machine."""

    manifest: IndexManifest
    sha256: str
    vectors: Path


def check_memory(rows: int, dim: int, limits: BuildLimits) -> None:
    """Refuse an index that will not fit. Raises MemoryExceeded."""
    needed, budget = rows * dim * 4, limits.max_index_bytes
    if needed > budget:
        raise MemoryExceeded(
            f"{rows:,} vectors of size {dim} take {needed:,} bytes, over this server's limit of {budget:,} for indexes",
            needed_bytes=needed,
            budget_bytes=budget,
        )


def check_quarantine(spec: IndexSpec, progress: BuildProgress) -> None:
    """Refuse to go on when too much cannot be read. Raises TooManyQuarantined."""
    fraction = spec.max_quarantined_fraction
    fraction = DEFAULT_MAX_QUARANTINED_FRACTION if fraction is None else fraction
    if progress.quarantined > fraction * progress.total:
        first = progress.listed[0]
        raise TooManyQuarantined(
            f"{progress.quarantined} of {progress.total} samples of {spec.manifest_uri} cannot be read, more than "
            f"max_quarantined_fraction {fraction:g} allows; the first is {first.sample_id}: {first.message}",
            quarantined=progress.quarantined,
            total=progress.total,
            limit=fraction,
        )
