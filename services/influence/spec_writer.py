"""Specs to job.proto, with the defaults that hold written out."""

from __future__ import annotations

from eif.influence.v1 import job_pb2

from services.influence.enum_maps import DEVICES, DISTANCES, KINDS, SPACES, VOTES
from services.influence.spec import (
    Artifact,
    InfluenceOptions,
    PublishedStepsOptions,
    QuerySelection,
    RankSpec,
    RelabelSpec,
    RunOptions,
    SampleSelection,
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


def _artifact(artifact: Artifact) -> job_pb2.ArtifactRef:
    return job_pb2.ArtifactRef(uri=artifact.uri, sha256=artifact.sha256 or "")


def _queries(queries: QuerySelection) -> job_pb2.QuerySelection:
    return job_pb2.QuerySelection(
        kind=KINDS.write(queries.kind),
        max_queries=queries.max_queries or 0,
        pairs=[job_pb2.SamplePair(sample_id=pair.sample_id, neighbor_id=pair.neighbor_id) for pair in queries.pairs],
        classes=queries.classes,
    )


def _influence(options: InfluenceOptions) -> job_pb2.InfluenceOptions:
    written = job_pb2.InfluenceOptions(
        num_thetas=options.num_thetas,
        skip_normalization=not options.normalize,
        distance=DISTANCES.write(options.distance),
    )
    if isinstance(options.step, PublishedStepsOptions):
        written.published.steps = options.step.steps
        written.published.learning_rate = options.step.learning_rate
    else:
        written.radius = options.step.radius
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
