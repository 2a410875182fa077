"""Specs to job.proto, with the defaults that hold written out."""

from __future__ import annotations

from collections.abc import Sequence

from eif.influence.v1 import job_pb2

from eif_engine.config import Metric
from services.influence.enum_maps import DEVICES, DISTANCES, KINDS, METRICS, SPACES, VOTES
from services.influence.spec import (
    Artifact,
    AuditSpec,
    ExplainSpec,
    FirstOrderOptions,
    InfluenceOptions,
    PublishedStepsOptions,
    QuerySelection,
    RankSpec,
    RelabelSpec,
    RunOptions,
    SamplePair,
    SampleSelection,
    UnitStepOptions,
    UnitStepsOptions,
)


def write_rank(spec: RankSpec) -> job_pb2.RankSpec:
    """A rank spec."""
    return job_pb2.RankSpec(
        model=_artifact(spec.model),
        train_manifest=_artifact(spec.train_manifest),
        test_manifest=_artifact(spec.test_manifest),
        queries=_queries(spec.queries),
        influence=_influence(spec.influence),
        top_k=spec.top_k,
        run=_run(spec.run),
    )


def write_relabel(spec: RelabelSpec) -> job_pb2.RelabelSpec:
    """A relabel spec."""
    written = job_pb2.RelabelSpec(
        model=_artifact(spec.model) if spec.model else None,
        train_manifest=_artifact(spec.train_manifest),
        samples=_samples(spec.samples),
        num_neighbors=spec.num_neighbors or 0,
        vote=VOTES.write(spec.vote),
        run=_run(spec.run),
    )
    if spec.knn_index is None:
        written.space = SPACES.write(spec.space)
    else:
        written.knn_index = spec.knn_index
    return written


def write_audit(spec: AuditSpec) -> job_pb2.AuditSpec:
    """An audit spec."""
    return job_pb2.AuditSpec(
        model=_artifact(spec.model) if spec.model else None,
        train_manifest=_artifact(spec.train_manifest),
        test_manifest=_artifact(spec.test_manifest),
        train_embeddings=_artifact(spec.train_embeddings) if spec.train_embeddings else None,
        test_embeddings=_artifact(spec.test_embeddings) if spec.test_embeddings else None,
        decisions=_artifact(spec.decisions) if spec.decisions else None,
        previous_audit=spec.previous_audit or "",
        group_by=spec.group_by,
        influence=_influence(spec.influence),
        top_k=spec.top_k,
        proofs=spec.proofs,
        skip_report=spec.skip_report,
        run=_run(spec.run),
    )


def write_explain(spec: ExplainSpec) -> job_pb2.ExplainSpec:
    """An explain spec."""
    return job_pb2.ExplainSpec(
        model=_artifact(spec.model), manifest=_artifact(spec.manifest), pairs=_pairs(spec.pairs), run=_run(spec.run)
    )


def _artifact(artifact: Artifact) -> job_pb2.ArtifactRef:
    return job_pb2.ArtifactRef(uri=artifact.uri, sha256=artifact.sha256 or "")


def _queries(queries: QuerySelection) -> job_pb2.QuerySelection:
    return job_pb2.QuerySelection(
        kind=KINDS.write(queries.kind),
        max_queries=queries.max_queries or 0,
        pairs=_pairs(queries.pairs),
        classes=queries.classes,
    )


def _pairs(pairs: Sequence[SamplePair]) -> list[job_pb2.SamplePair]:
    return [job_pb2.SamplePair(sample_id=pair.sample_id, neighbor_id=pair.neighbor_id) for pair in pairs]


def _influence(options: InfluenceOptions) -> job_pb2.InfluenceOptions:
    written = job_pb2.InfluenceOptions(
        num_thetas=options.num_thetas,
        skip_normalization=not options.normalize,
        distance=DISTANCES.write(options.distance),
        metric=METRICS.write(options.metric),
        damping=options.damping if options.metric is Metric.KFAC else 0.0,
    )
    match options.step:
        case PublishedStepsOptions(steps=steps, learning_rate=learning_rate):
            written.published.MergeFrom(job_pb2.PublishedSteps(steps=steps, learning_rate=learning_rate))
        case UnitStepsOptions(radius=radius, steps=steps):
            written.unit_steps.MergeFrom(job_pb2.UnitSteps(radius=radius, steps=steps))
        case FirstOrderOptions(radius=radius):
            written.first_order.MergeFrom(job_pb2.FirstOrder(radius=radius))
        case UnitStepOptions(radius=radius):
            written.radius = radius
    return written


def _samples(samples: SampleSelection) -> job_pb2.SampleSelection:
    if samples.harmful is None:
        return job_pb2.SampleSelection(sample_ids=samples.sample_ids)
    harmful = samples.harmful
    return job_pb2.SampleSelection(
        harmful=job_pb2.HarmfulSamples(job=harmful.job, query_id=harmful.query_id or "", count=harmful.count or 0)
    )


def _run(run: RunOptions) -> job_pb2.RunOptions:
    return job_pb2.RunOptions(
        device=DEVICES.write(run.device), seed=run.seed, max_quarantined_fraction=run.max_quarantined_fraction
    )
