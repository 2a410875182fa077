"""What a job computes: the domain's form of the specs in job.proto, and what crosses to the job process as JSON."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from eif_engine.config import Distance, Metric, NeighborSpace, QueryKind, VoteRule

DEFAULT_TOP_K = 100
DEFAULT_MAX_QUARANTINED_FRACTION = 0.01


class Frozen(BaseModel):
    """Immutable, and refuses what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Artifact(Frozen):
    """An object in the object store, with the sha256 (hex) it must have, if given."""

    uri: str = Field(min_length=1, max_length=2048)
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")


class Device(StrEnum):
    """Where a job computes; AUTO is a GPU where there is one."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class RunOptions(Frozen):
    """What holds for every kind of job."""

    device: Device = Device.AUTO
    seed: int = Field(default=0, ge=0, lt=2**64)
    max_quarantined_fraction: float = Field(default=DEFAULT_MAX_QUARANTINED_FRACTION, ge=0, le=1)


class SamplePair(Frozen):
    """Two test samples by id."""

    sample_id: str = Field(min_length=1)
    neighbor_id: str = Field(min_length=1)


class QuerySelection(Frozen):
    """Which confusions a job explains; `max_queries` None means all."""

    kind: QueryKind = QueryKind.CONFUSION_PAIRS
    max_queries: int | None = Field(default=None, ge=1)
    pairs: tuple[SamplePair, ...] = ()
    classes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one_filter(self) -> QuerySelection:
        if self.pairs and self.classes:
            raise ValueError("queries.pairs and queries.classes exclude each other: give one of them")
        if self.pairs and self.kind is QueryKind.CONFUSION_GROUPS:
            raise ValueError("queries.pairs selects pairs, but queries.kind asks for groups: leave one of them out")
        return self


class UnitStepOptions(Frozen):
    """One step of this length along the gradient."""

    kind: Literal["unit"] = "unit"
    radius: float = Field(default=1.0, gt=0, allow_inf_nan=False)


class UnitStepsOptions(Frozen):
    """Several steps whose lengths add up to the radius, each newly aimed."""

    kind: Literal["unit_steps"] = "unit_steps"
    radius: float = Field(default=0.2, gt=0, allow_inf_nan=False)
    steps: int = Field(default=20, ge=1, le=10_000)


class FirstOrderOptions(Frozen):
    """The limit of a short step, scaled to the radius."""

    kind: Literal["first_order"] = "first_order"
    radius: float = Field(default=1.0, gt=0, allow_inf_nan=False)


class PublishedStepsOptions(Frozen):
    """Plain gradient steps."""

    kind: Literal["published"] = "published"
    steps: int = Field(default=50, ge=1, le=100_000)
    learning_rate: float = Field(default=1e-3, gt=0, allow_inf_nan=False)


class InfluenceOptions(Frozen):
    """How influence is computed."""

    step: Annotated[
        UnitStepOptions | UnitStepsOptions | FirstOrderOptions | PublishedStepsOptions, Field(discriminator="kind")
    ] = UnitStepsOptions()
    num_thetas: int = Field(default=2, ge=1, le=64)
    normalize: bool = True
    distance: Distance = Distance.SQUARED_EUCLIDEAN
    metric: Metric = Metric.IDENTITY
    damping: float = Field(default=10.0, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _random_thetas_need_a_unit_step(self) -> InfluenceOptions:
        if self.num_thetas > 2 and not isinstance(self.step, UnitStepOptions):
            raise ValueError(
                "influence.num_thetas above 2 needs influence.radius: random directions are single unit steps"
            )
        return self

    @model_validator(mode="after")
    def _published_steps_are_plain(self) -> InfluenceOptions:
        if self.metric is not Metric.IDENTITY and isinstance(self.step, PublishedStepsOptions):
            raise ValueError("influence.metric excludes influence.published, whose steps are plain gradient steps")
        return self


class RankSpec(Frozen):
    """Rank training samples by their influence on confusions."""

    kind: Literal["rank"] = "rank"
    model: Artifact
    train_manifest: Artifact
    test_manifest: Artifact
    queries: QuerySelection = QuerySelection()
    influence: InfluenceOptions = InfluenceOptions()
    top_k: int = Field(default=DEFAULT_TOP_K, ge=1)
    run: RunOptions = RunOptions()


class HarmfulSamples(Frozen):
    """The head of a rank job's ranking; `query_id` None is the ranking over all queries, `count` None all above 0."""

    job: str
    query_id: str | None = None
    count: int | None = Field(default=None, ge=1)


class SampleSelection(Frozen):
    """Which training samples a relabel job looks at; neither means all."""

    sample_ids: tuple[str, ...] = ()
    harmful: HarmfulSamples | None = None

    @model_validator(mode="after")
    def _one_selection(self) -> SampleSelection:
        if self.sample_ids and self.harmful:
            raise ValueError("samples.sample_ids and samples.harmful exclude each other: give one of them")
        return self


class RelabelSpec(Frozen):
    """Suggest labels for training samples. Neighbours come from `space`, or from `knn_index` when that is set."""

    kind: Literal["relabel"] = "relabel"
    model: Artifact | None = None
    train_manifest: Artifact
    samples: SampleSelection = SampleSelection()
    space: NeighborSpace = NeighborSpace.PENULTIMATE
    knn_index: str | None = None
    num_neighbors: int | None = Field(default=None, ge=1)
    vote: VoteRule = VoteRule.SOFT
    run: RunOptions = RunOptions()

    @model_validator(mode="after")
    def _neighbours_come_from_somewhere(self) -> RelabelSpec:
        if self.model is None and self.knn_index is None:
            raise ValueError(
                "relabel needs relabel.model, or relabel.knn_index for neighbours from the embedding service"
            )
        return self


class AuditSpec(Frozen):
    """Audit a model and its data. Features come from `model`, or from the embeddings where there is none."""

    kind: Literal["audit"] = "audit"
    model: Artifact | None = None
    train_manifest: Artifact
    test_manifest: Artifact
    train_embeddings: Artifact | None = None
    test_embeddings: Artifact | None = None
    decisions: Artifact | None = None
    previous_audit: str | None = None
    group_by: tuple[str, ...] = Field(default=(), max_length=16)
    influence: InfluenceOptions = InfluenceOptions()
    top_k: int = Field(default=50, ge=1, le=10_000)
    proofs: int = Field(default=3, ge=0, le=100)
    skip_report: bool = False
    run: RunOptions = RunOptions()

    @model_validator(mode="after")
    def _features_come_from_somewhere(self) -> AuditSpec:
        embeddings = (self.train_embeddings, self.test_embeddings)
        if self.model is not None and any(embeddings):
            raise ValueError("audit.model excludes audit.train_embeddings and audit.test_embeddings: give one of them")
        if self.model is None and not all(embeddings):
            raise ValueError(
                "audit needs audit.model, or audit.train_embeddings and audit.test_embeddings to work without one"
            )
        return self


class ExplainSpec(Frozen):
    """Explain why pairs of samples look alike."""

    kind: Literal["explain"] = "explain"
    model: Artifact
    manifest: Artifact
    pairs: tuple[SamplePair, ...] = Field(min_length=1, max_length=256)
    run: RunOptions = RunOptions()


JobSpec = Annotated[RankSpec | RelabelSpec | AuditSpec | ExplainSpec, Field(discriminator="kind")]


class JobRequest(Frozen):
    """What the job process is told: written to `job.json` in the job's scratch folder.

    Attributes:
        name: Resource name of the job.
        display_name: Its title for people; may be empty.
        uid: Results go to `<output_uri_prefix>/<uid>/`.
        referred: What the spec points to in another job, resolved by the control plane: the ranking table behind
            `samples.harmful`, or MANIFEST.json of `previous_audit`.
        traceparent: The place in a trace that the process works for.
        places: Starts of the URIs that its project may use; None: all that the store allows.
    """

    name: str
    display_name: str = ""
    uid: str
    attempt: int
    spec: JobSpec
    output_uri_prefix: str
    referred: Artifact | None = None
    traceparent: str | None = None
    places: tuple[str, ...] | None = None
