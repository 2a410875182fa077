"""What each method of InfluenceService needs of its caller."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from eif.influence.v1 import influence_service_pb2 as service_pb2
from eif.influence.v1 import job_pb2

from services.common.access.rules import NamedResource, NamedUri, Rule, Use, Verb

_SERVICE = service_pb2.DESCRIPTOR.services_by_name["InfluenceService"].full_name
_JOB = "influence_job"


def _created_from(request: service_pb2.CreateInfluenceJobRequest) -> Iterator[NamedResource]:
    """The results that a new job reads, and the index that its process searches in the name of this service."""
    job = request.influence_job
    for field, name, verb in (
        ("relabel.samples.harmful.job", job.relabel.samples.harmful.job, Verb.READ),
        ("relabel.knn_index", job.relabel.knn_index, Verb.SEARCH),
        ("audit.previous_audit", job.audit.previous_audit, Verb.READ),
    ):
        if name:
            yield NamedResource(field=f"{_JOB}.{field}", name=name, verb=verb)


def _places_of(request: service_pb2.CreateInfluenceJobRequest) -> Iterator[NamedUri]:
    """What a new job reads, and where it writes when it does not leave that to the server."""
    job = request.influence_job
    kind = job.WhichOneof("spec")
    if kind is not None:
        for field, value in getattr(job, kind).ListFields():
            if isinstance(value, job_pb2.ArtifactRef):
                yield NamedUri(field=f"{_JOB}.{kind}.{field.name}.uri", uri=value.uri)
    if job.output_uri_prefix:
        yield NamedUri(field=f"{_JOB}.output_uri_prefix", uri=job.output_uri_prefix, use=Use.OUTPUT)


def _baseline(
    request: service_pb2.EvaluateAuditRequest | service_pb2.CompareAuditsRequest,
) -> Iterator[NamedResource]:
    if request.baseline:
        yield NamedResource(field="baseline", name=request.baseline, verb=Verb.READ)


_RULES = {
    "CreateInfluenceJob": Rule(verb=Verb.WRITE, field="parent", others=_created_from, uris=_places_of),
    "GetInfluenceJob": Rule(verb=Verb.READ, field="name"),
    "ListInfluenceJobs": Rule(verb=Verb.READ, field="parent"),
    "CancelInfluenceJob": Rule(verb=Verb.WRITE, field="name"),
    "DeleteInfluenceJob": Rule(verb=Verb.WRITE, field="name"),
    "WatchInfluenceJob": Rule(verb=Verb.READ, field="name"),
    "ListJobResults": Rule(verb=Verb.READ, field="name"),
    "StreamRankedSamples": Rule(verb=Verb.READ, field="name"),
    "ReadJobFile": Rule(verb=Verb.READ, field="name"),
    "EvaluateAudit": Rule(verb=Verb.READ, field="name", others=_baseline),
    "CompareAudits": Rule(verb=Verb.READ, field="name", others=_baseline),
    "GetServerInfo": Rule(verb=None),
}

RULES: Mapping[str, Rule] = {f"/{_SERVICE}/{method}": rule for method, rule in _RULES.items()}
"""By full name of the method. A method that is not here is denied to everybody."""
