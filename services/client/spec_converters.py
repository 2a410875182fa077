"""From what is asked for to the messages of job.proto."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from eif.influence.v1 import influence_service_pb2, job_pb2, results_pb2

from services.client import names
from services.client.specs import (
    Artifact,
    Device,
    Distance,
    FirstOrder,
    HarmfulSamples,
    Influence,
    JobOptions,
    Metric,
    NeighborSpace,
    PublishedSteps,
    Queries,
    QueryKind,
    RankOrder,
    RunOptions,
    Table,
    UnitSteps,
    VoteRule,
)

_KINDS = {
    QueryKind.CONFUSION: job_pb2.QuerySelection.KIND_CONFUSION_PAIRS,
    QueryKind.MIS_SIMILAR: job_pb2.QuerySelection.KIND_MIS_SIMILAR_PAIRS,
    QueryKind.GROUP: job_pb2.QuerySelection.KIND_CONFUSION_GROUPS,
}
_DISTANCES = {
    Distance.SQUARED_EUCLIDEAN: job_pb2.DISTANCE_SQUARED_EUCLIDEAN,
    Distance.EUCLIDEAN: job_pb2.DISTANCE_EUCLIDEAN,
    Distance.COSINE: job_pb2.DISTANCE_COSINE,
}
_METRICS = {Metric.IDENTITY: job_pb2.METRIC_IDENTITY, Metric.KFAC: job_pb2.METRIC_KFAC}
_DEVICES = {
    Device.AUTO: job_pb2.DEVICE_UNSPECIFIED,
    Device.CPU: job_pb2.DEVICE_CPU,
    Device.CUDA: job_pb2.DEVICE_CUDA,
}
_SPACES = {
    NeighborSpace.EMBEDDING: job_pb2.NEIGHBOR_SPACE_EMBEDDING,
    NeighborSpace.PENULTIMATE: job_pb2.NEIGHBOR_SPACE_PENULTIMATE,
}
_VOTES = {VoteRule.SOFT: job_pb2.VOTE_RULE_SOFT, VoteRule.HARD: job_pb2.VOTE_RULE_HARD}
ORDERS = {
    RankOrder.HARMFUL: results_pb2.RANK_ORDER_HARMFUL_FIRST,
    RankOrder.HELPFUL: results_pb2.RANK_ORDER_HELPFUL_FIRST,
}
TABLES = {
    Table.RANKING: results_pb2.RESULT_TABLE_RANKING,
    Table.RELABEL: results_pb2.RESULT_TABLE_RELABEL,
    Table.PAIRS: results_pb2.RESULT_TABLE_PAIRS,
    Table.QUARANTINE: results_pb2.RESULT_TABLE_QUARANTINE,
}


def rank_spec(
    *,
    model: Artifact | str,
    train: Artifact | str,
    test: Artifact | str,
    queries: Queries,
    influence: Influence,
    top_k: int | None,
    run: RunOptions,
) -> job_pb2.RankSpec:
    """A RankSpec."""
    return job_pb2.RankSpec(
        model=_artifact(model),
        train_manifest=_artifact(train),
        test_manifest=_artifact(test),
        queries=_queries(queries),
        influence=_influence(influence),
        top_k=top_k or 0,
        run=_run(run),
    )


def relabel_spec(
    *,
    train: Artifact | str,
    model: Artifact | str | None,
    samples: job_pb2.SampleSelection,
    space: NeighborSpace,
    knn_index: str | None,
    num_neighbors: int | None,
    vote: VoteRule,
    run: RunOptions,
) -> job_pb2.RelabelSpec:
    """A RelabelSpec; with `knn_index` the neighbours come from there and `space` says nothing."""
    spec = job_pb2.RelabelSpec(
        train_manifest=_artifact(train),
        samples=samples,
        num_neighbors=num_neighbors or 0,
        vote=_VOTES[vote],
        run=_run(run),
    )
    if model is not None:
        spec.model.CopyFrom(_artifact(model))
    if knn_index is None:
        spec.space = _SPACES[space]
    else:
        spec.knn_index = knn_index
    return spec


def audit_spec(
    *,
    train: Artifact | str,
    test: Artifact | str,
    model: Artifact | str | None,
    embeddings: tuple[Artifact | str, Artifact | str] | None,
    decisions: Artifact | str | None,
    previous_audit: str,
    group_by: Sequence[str],
    influence: Influence,
    top_k: int | None,
    proofs: int | None,
    report: bool,
    run: RunOptions,
) -> job_pb2.AuditSpec:
    """An AuditSpec; the server refuses a model beside embeddings, and neither."""
    train_embeddings, test_embeddings = embeddings or (None, None)
    return job_pb2.AuditSpec(
        model=_if_given(model),
        train_manifest=_artifact(train),
        test_manifest=_artifact(test),
        train_embeddings=_if_given(train_embeddings),
        test_embeddings=_if_given(test_embeddings),
        decisions=_if_given(decisions),
        previous_audit=previous_audit,
        group_by=group_by,
        influence=_influence(influence),
        top_k=top_k or 0,
        proofs=proofs,
        skip_report=not report,
        run=_run(run),
    )


def explain_spec(
    *, model: Artifact | str, manifest: Artifact | str, pairs: Sequence[tuple[str, str]], run: RunOptions
) -> job_pb2.ExplainSpec:
    """An ExplainSpec."""
    return job_pb2.ExplainSpec(model=_artifact(model), manifest=_artifact(manifest), pairs=_pairs(pairs), run=_run(run))


def sample_selection(
    sample_ids: tuple[str, ...], harmful: HarmfulSamples | None, *, project: str
) -> job_pb2.SampleSelection:
    """Which samples get a suggestion; neither means all. The server refuses both."""
    selection = job_pb2.SampleSelection(sample_ids=sample_ids)
    if harmful is not None:
        selection.harmful.job = names.job_name(harmful.job, project)
        selection.harmful.query_id = harmful.query_id or ""
        selection.harmful.count = harmful.count or 0
    return selection


def create_request(
    job: job_pb2.InfluenceJob, options: JobOptions, *, project: str
) -> influence_service_pb2.CreateInfluenceJobRequest:
    """A request that may be sent twice: it always carries a request id."""
    job.display_name = options.display_name
    job.output_uri_prefix = options.output_uri_prefix or ""
    job.labels.update(options.labels)
    return influence_service_pb2.CreateInfluenceJobRequest(
        parent=names.parent(project),
        influence_job=job,
        influence_job_id=options.job_id or "",
        request_id=options.request_id or str(uuid.uuid4()),
        validate_only=options.validate_only,
    )


def _artifact(given: Artifact | str) -> job_pb2.ArtifactRef:
    if isinstance(given, str):
        return job_pb2.ArtifactRef(uri=given)
    return job_pb2.ArtifactRef(uri=given.uri, sha256=given.sha256)


def _if_given(artifact: Artifact | str | None) -> job_pb2.ArtifactRef | None:
    return None if artifact is None else _artifact(artifact)


def _queries(queries: Queries) -> job_pb2.QuerySelection:
    return job_pb2.QuerySelection(
        kind=_KINDS[queries.kind],
        max_queries=queries.max_queries or 0,
        pairs=_pairs(queries.pairs),
        classes=queries.classes,
    )


def _pairs(pairs: Sequence[tuple[str, str]]) -> list[job_pb2.SamplePair]:
    return [job_pb2.SamplePair(sample_id=sample, neighbor_id=neighbor) for sample, neighbor in pairs]


def _influence(options: Influence) -> job_pb2.InfluenceOptions:
    message = job_pb2.InfluenceOptions(
        num_thetas=options.num_thetas,
        skip_normalization=not options.normalize,
        distance=_DISTANCES[options.distance],
        metric=_METRICS[options.metric],
        damping=options.damping or 0.0,
    )
    match options.step:
        case PublishedSteps(steps=steps, learning_rate=learning_rate):
            message.published.MergeFrom(job_pb2.PublishedSteps(steps=steps, learning_rate=learning_rate))
        case UnitSteps(radius=radius, steps=steps):
            message.unit_steps.MergeFrom(job_pb2.UnitSteps(radius=radius, steps=steps))
        case FirstOrder(radius=radius):
            message.first_order.MergeFrom(job_pb2.FirstOrder(radius=radius))
        case radius:
            message.radius = radius
    return message


def _run(options: RunOptions) -> job_pb2.RunOptions:
    return job_pb2.RunOptions(
        device=_DEVICES[options.device],
        seed=options.seed,
        max_quarantined_fraction=options.max_quarantined_fraction,
    )
