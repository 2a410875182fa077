"""What can be asked of the influence service. The defaults are the recommended ones; job.proto says more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class QueryKind(StrEnum):
    """What a query is made of; its order comes with it."""

    CONFUSION = "confusion"
    """A test sample and its nearest other test sample, where that has another label. Closest first."""
    MIS_SIMILAR = "mis_similar"
    """Two test samples of one label that lie farthest apart. Farthest first."""
    GROUP = "group"
    """All confusion pairs whose first sample is of one class, as one query. Largest first."""


class Distance(StrEnum):
    """Distance of a pair, on L2-normalised embeddings."""

    SQUARED_EUCLIDEAN = "squared_euclidean"
    EUCLIDEAN = "euclidean"
    COSINE = "cosine"


class Metric(StrEnum):
    """In which metric a direction is steepest: of the weight itself, or of the curvature of the loss."""

    IDENTITY = "identity"
    KFAC = "kfac"


class NeighborSpace(StrEnum):
    """Where neighbours are looked for."""

    EMBEDDING = "embedding"
    PENULTIMATE = "penultimate"


class VoteRule(StrEnum):
    """How neighbours vote for a label."""

    SOFT = "soft"
    HARD = "hard"


class Device(StrEnum):
    """Where a job computes; AUTO is a GPU where there is one."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class RankOrder(StrEnum):
    """From which end a ranking is streamed."""

    HARMFUL = "harmful"
    HELPFUL = "helpful"


class Table(StrEnum):
    """A table among the results of a job."""

    RANKING = "ranking"
    RELABEL = "relabel"
    PAIRS = "pairs"
    QUARANTINE = "quarantine"


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """An object in the object store, with the sha256 (hex) that it must have, if given."""

    uri: str
    sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class Queries:
    """Which confusions a rank job explains.

    Attributes:
        kind: What a query is made of.
        max_queries: At most so many, in the order of the kind; None means all.
        pairs: Only these pairs of test sample ids. Excludes `classes`.
        classes: Only queries of these labels.
    """

    kind: QueryKind = QueryKind.CONFUSION
    max_queries: int | None = None
    pairs: tuple[tuple[str, str], ...] = ()
    classes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PublishedSteps:
    """Plain gradient steps, as the published code takes them."""

    steps: int = 50
    learning_rate: float = 1e-3


@dataclass(frozen=True, kw_only=True)
class UnitSteps:
    """Several steps whose lengths add up to the radius, each newly aimed."""

    radius: float = 0.2
    steps: int = 20


@dataclass(frozen=True, kw_only=True)
class FirstOrder:
    """The limit of a short step, scaled to the radius: many times faster, for screening."""

    radius: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Influence:
    """How influence is computed (EIF, eq. 6).

    Attributes:
        step: Length of the one step along the gradient, or another stepping.
        num_thetas: 1 is the ascent, 2 adds the descent, more add random orthogonal directions.
        normalize: Divide by |theta - theta_0|, as eq. 6 does and the published code does not.
        distance: Distance of a pair.
        metric: In which metric the direction is steepest; not for published steps.
        damping: Of the curvature, in shares of its mean eigenvalue; None means the server's default. KFAC only.
    """

    step: float | UnitSteps | FirstOrder | PublishedSteps = field(default_factory=UnitSteps)
    num_thetas: int = 2
    normalize: bool = True
    distance: Distance = Distance.SQUARED_EUCLIDEAN
    metric: Metric = Metric.IDENTITY
    damping: float | None = None


@dataclass(frozen=True, kw_only=True)
class HarmfulSamples:
    """The most harmful samples of a succeeded rank job.

    Attributes:
        job: Name or id of the rank job.
        query_id: One of its queries; None means the ranking over all of them.
        count: How many; None means all with a score above 0.
    """

    job: str
    query_id: str | None = None
    count: int | None = None


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What holds for every kind of job.

    Attributes:
        device: Where it computes.
        seed: Seeds everything that is random.
        max_quarantined_fraction: The job fails past this share of unreadable samples; None is the server's 0.01.
    """

    device: Device = Device.AUTO
    seed: int = 0
    max_quarantined_fraction: float | None = None


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """How a job is kept and found.

    Attributes:
        job_id: Last segment of its name; the server chooses one when None.
        display_name: A title for people.
        output_uri_prefix: Where the results go; None is the server's default.
        labels: Free key-value pairs.
        request_id: A UUID that makes a repeated submission the same job; a new one when None.
        validate_only: Check what can be checked without running, and keep nothing.
    """

    job_id: str | None = None
    display_name: str = ""
    output_uri_prefix: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    request_id: str | None = None
    validate_only: bool = False
