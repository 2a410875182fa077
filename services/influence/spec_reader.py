"""Specs from job.proto. What a caller leaves out becomes the default; what is wrong is told by its proto field."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from eif.influence.v1 import job_pb2
from google.protobuf.message import Message
from pydantic import TypeAdapter, ValidationError

from services.common.errors import ServiceError
from services.influence.enum_maps import DEVICES, DISTANCES, KINDS, METRICS, SPACES, VOTES
from services.influence.names import invalid
from services.influence.spec import JobSpec

_SPEC: TypeAdapter[JobSpec] = TypeAdapter(JobSpec)
_FIELD = "influence_job"

Values = dict[str, Any]


def read_spec(job: job_pb2.InfluenceJob) -> JobSpec:
    """The spec of a job. Raises ARGUMENT_INVALID that names the field."""
    match job.WhichOneof("spec"):
        case "rank":
            return _validated("rank", _rank(job.rank))
        case "relabel":
            return _validated("relabel", _relabel(job.relabel))
        case "audit":
            return _validated("audit", _audit(job.audit))
        case "explain":
            return _validated("explain", _explain(job.explain))
        case _:
            raise invalid(_FIELD, "one of rank, relabel, audit and explain is required: it says what to compute")


def _rank(spec: job_pb2.RankSpec) -> Values:
    return {
        **_messages(spec, "model", "train_manifest", "test_manifest", read=_artifact),
        "queries": _queries(spec.queries),
        "influence": _influence(spec.influence, "rank"),
        **_unless_zero(top_k=spec.top_k),
        "run": _run(spec.run, "rank"),
    }


def _relabel(spec: job_pb2.RelabelSpec) -> Values:
    neighbors = spec.WhichOneof("neighbors")
    return {
        **_messages(spec, "model", "train_manifest", read=_artifact),
        "samples": _samples(spec.samples),
        "space": SPACES.read(spec.space, f"{_FIELD}.relabel.space"),
        "knn_index": spec.knn_index if neighbors == "knn_index" else None,
        **_unless_zero(num_neighbors=spec.num_neighbors),
        "vote": VOTES.read(spec.vote, f"{_FIELD}.relabel.vote"),
        "run": _run(spec.run, "relabel"),
    }


def _audit(spec: job_pb2.AuditSpec) -> Values:
    artifacts = ("model", "train_manifest", "test_manifest", "train_embeddings", "test_embeddings", "decisions")
    return {
        **_messages(spec, *artifacts, read=_artifact),
        "previous_audit": spec.previous_audit or None,
        "group_by": list(spec.group_by),
        "influence": _influence(spec.influence, "audit"),
        **_unless_zero(top_k=spec.top_k),
        **({"proofs": spec.proofs} if spec.HasField("proofs") else {}),
        "skip_report": spec.skip_report,
        "run": _run(spec.run, "audit"),
    }


def _explain(spec: job_pb2.ExplainSpec) -> Values:
    return {
        **_messages(spec, "model", "manifest", read=_artifact),
        "pairs": _pairs(spec.pairs),
        "run": _run(spec.run, "explain"),
    }


def _pairs(pairs: Iterable[job_pb2.SamplePair]) -> list[Values]:
    return [{"sample_id": pair.sample_id, "neighbor_id": pair.neighbor_id} for pair in pairs]


def _artifact(artifact: job_pb2.ArtifactRef) -> Values:
    return {"uri": artifact.uri, "sha256": artifact.sha256.lower() or None}


def _queries(queries: job_pb2.QuerySelection) -> Values:
    return {
        "kind": KINDS.read(queries.kind, f"{_FIELD}.rank.queries.kind"),
        **_unless_zero(max_queries=queries.max_queries),
        "pairs": _pairs(queries.pairs),
        "classes": list(queries.classes),
    }


def _influence(options: job_pb2.InfluenceOptions, kind: str) -> Values:
    return {
        **_step(options),
        **_unless_zero(num_thetas=options.num_thetas),
        "normalize": not options.skip_normalization,
        "distance": DISTANCES.read(options.distance, f"{_FIELD}.{kind}.influence.distance"),
        "metric": METRICS.read(options.metric, f"{_FIELD}.{kind}.influence.metric"),
        **_unless_zero(damping=options.damping),
    }


def _step(options: job_pb2.InfluenceOptions) -> Values:
    match options.WhichOneof("step"):
        case "radius":
            return {"step": {"kind": "unit", "radius": options.radius}}
        case "unit_steps":
            way = options.unit_steps
            return {"step": {"kind": "unit_steps", **_unless_zero(radius=way.radius, steps=way.steps)}}
        case "first_order":
            return {"step": {"kind": "first_order", **_unless_zero(radius=options.first_order.radius)}}
        case "published":
            steps = options.published
            return {
                "step": {
                    "kind": "published",
                    **_unless_zero(steps=steps.steps, learning_rate=steps.learning_rate),
                }
            }
        case _:
            return {}


def _samples(samples: job_pb2.SampleSelection) -> Values:
    return {"sample_ids": list(samples.sample_ids), **_messages(samples, "harmful", read=_harmful)}


def _harmful(harmful: job_pb2.HarmfulSamples) -> Values:
    return {"job": harmful.job, "query_id": harmful.query_id or None, **_unless_zero(count=harmful.count)}


def _run(run: job_pb2.RunOptions, kind: str) -> Values:
    values: Values = {"device": DEVICES.read(run.device, f"{_FIELD}.{kind}.run.device"), "seed": run.seed}
    if run.HasField("max_quarantined_fraction"):
        values["max_quarantined_fraction"] = run.max_quarantined_fraction
    return values


def _messages(message: Message, *names: str, read: Callable[..., Values]) -> Values:
    """Those of the fields that are set; pydantic tells which of the others are required."""
    return {name: read(getattr(message, name)) for name in names if message.HasField(name)}


def _unless_zero(**values: float) -> Mapping[str, float]:
    """In the protos 0 means the default."""
    return {name: value for name, value in values.items() if value != 0}


def _validated(kind: str, values: Values) -> JobSpec:
    try:
        return _SPEC.validate_python({"kind": kind, **values})
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = ".".join([_FIELD, *_path(problem["loc"])])
        raise _told(field, problem["type"], problem["msg"], problem.get("input")) from error


def _path(location: Sequence[int | str]) -> list[str]:
    """The names of the proto's fields; the domain has one level more where the proto has a oneof."""
    path: list[str] = []
    for place, step in enumerate(location):
        before = location[place - 1] if place else None
        if isinstance(step, int):
            path[-1] += f"[{step}]"
        elif step != "step" and not (before == "step" and step == "unit"):
            path.append(step)
    return path


def _told(field: str, kind: str, message: str, value: object) -> ServiceError:
    if kind == "missing" or value == "":
        return invalid(field, "it is required")
    if kind == "string_pattern_mismatch":
        return invalid(field, f"{str(value)[:80]!r} is not a sha256: 64 digits 0-9 a-f")
    text = message.removeprefix("Value error, ")
    shown = f", not {value}" if isinstance(value, int | float) else ""
    return invalid(field, f"{text[0].lower()}{text[1:]}{shown}")
