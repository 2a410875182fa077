"""The nouns that the parts of the engine hand to each other; no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from eif_engine.config import QueryKind

ALL_QUERIES = "all"
"""Query id of the ranking over all queries: scores summed over them."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two rows of the test set and their distance under the model."""

    row: int
    neighbor: int
    distance: float


@dataclass(frozen=True, kw_only=True)
class Query:
    """A confusion to explain: one pair, or the pairs of a group, whose mean distance is `d`.

    Attributes:
        query_id: Stable within a job: `pair:<sample id>:<neighbour id>` (colons in ids as %3A) or
            `class:<label>`.
        kind: What it is made of.
        pairs: Its pairs; exactly one unless it is a group.
    """

    query_id: str
    kind: QueryKind
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One row of a manifest.

    Attributes:
        sample_id: Unique within the manifest.
        uri: The image, or a WebDataset tar when `member` is set.
        label: Always text; integer labels are written in decimal.
        member: Name of the image inside the tar.
        sha256: Digest of the image, hex, where the manifest gives it.
        line: Line (or row) of the manifest, from 1.
        extra: Every other column, as text.
    """

    sample_id: str
    uri: str
    label: str
    member: str | None = None
    sha256: str | None = None
    line: int = 0
    extra: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Quarantined:
    """A sample that could not be read, and why."""

    sample_id: str
    uri: str
    reason: str
    message: str


Progress = Callable[[int, int], None]
"""Called with (units done, units in all); cheap, and called at most a few times a second by callers that care."""


def no_progress(_done: int, _total: int) -> None:
    """Report nowhere."""
