"""Audit and explain jobs as they are created: what reaches the job process, and what is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from eif.influence.v1 import job_pb2

from services.client.influence import InfluenceClient
from services.client.specs import Artifact, Device, FirstOrder, JobOptions, RunOptions
from services.client.specs import Influence as InfluenceOptions
from services.influence.spec import AuditSpec, JobRequest
from tests.influence_app import FOREVER, SUCCEED, Influence, refusal
from tests.waiting import eventually


def audit_job(influence: Influence, **fields: Any) -> job_pb2.InfluenceJob:
    """An audit that never ends, of objects that are there."""
    spec = job_pb2.AuditSpec(
        model=job_pb2.ArtifactRef(uri=influence.put("model/model.json", "{}")),
        train_manifest=job_pb2.ArtifactRef(uri=influence.script(FOREVER, name="audit.jsonl")),
        test_manifest=job_pb2.ArtifactRef(uri=influence.put("test.csv")),
    )
    spec.MergeFrom(job_pb2.AuditSpec(**fields))
    return job_pb2.InfluenceJob(audit=spec)


async def told(influence: Influence, job: job_pb2.InfluenceJob) -> JobRequest:
    """What the job process was told."""
    await influence.until(job, job_pb2.JOB_STATE_RUNNING)
    path = influence.state_dir / "jobs" / job.uid / "job.json"
    await eventually(path.exists)
    return JobRequest.model_validate(json.loads(path.read_text()))


async def test_the_defaults_of_an_audit_are_written_out(influence: Influence) -> None:
    job = await influence.create(audit_job(influence))
    assert (job.audit.top_k, job.audit.proofs, job.audit.influence.unit_steps.steps) == (50, 3, 20)
    assert job.audit.run.max_quarantined_fraction == 0.01
    request = await told(influence, job)
    assert isinstance(request.spec, AuditSpec)
    assert request.referred is None


async def test_everything_a_client_says_of_an_audit_reaches_the_job(influence: Influence) -> None:
    train = influence.script(FOREVER, name="audit.jsonl")
    names = ("test.csv", "train.parquet", "test.parquet", "decisions.csv")
    test, train_embeddings, test_embeddings, decisions = (influence.put(name) for name in names)

    def submit() -> str:
        with InfluenceClient(influence.address, project="p") as client:
            job = client.audit(
                train=Artifact(uri=train),
                test=test,
                embeddings=(train_embeddings, test_embeddings),
                decisions=decisions,
                group_by=["annotator", "source"],
                influence=InfluenceOptions(step=FirstOrder()),
                top_k=7,
                proofs=0,
                report=False,
                run=RunOptions(device=Device.CPU, seed=3),
                options=JobOptions(job_id="everything"),
            )
            assert job.kind == "audit"
            return job.name

    name = await asyncio.to_thread(submit)
    spec = (await told(influence, await influence.get(job_pb2.InfluenceJob(name=name)))).spec
    assert isinstance(spec, AuditSpec)
    assert spec.model is None
    assert (spec.train_embeddings, spec.test_embeddings) != (None, None)
    assert spec.decisions is not None
    assert spec.decisions.uri == decisions
    assert (spec.group_by, spec.top_k, spec.proofs, spec.skip_report) == (("annotator", "source"), 7, 0, True)
    assert (spec.influence.step.kind, spec.run.seed) == ("first_order", 3)


async def test_the_previous_audit_is_pinned_by_its_digest(influence: Influence) -> None:
    first = audit_job(influence)
    first.audit.train_manifest.uri = influence.script(SUCCEED, name="done.jsonl")
    done = await influence.ended(await influence.create(first))
    job = await influence.create(audit_job(influence, previous_audit=done.name))
    referred = (await told(influence, job)).referred
    assert referred is not None
    assert (referred.uri, referred.sha256) == (done.output.manifest_uri, done.output.manifest_sha256)


async def test_an_explain_job_carries_its_pairs(influence: Influence) -> None:
    model, manifest = influence.put("model/model.json", "{}"), influence.script(FOREVER, name="explain.jsonl")

    def submit() -> str:
        with InfluenceClient(influence.address, project="p") as client:
            return client.explain(model=model, manifest=manifest, pairs=[("a", "b"), ("c", "d")]).name

    job = await influence.get(job_pb2.InfluenceJob(name=await asyncio.to_thread(submit)))
    assert [(pair.sample_id, pair.neighbor_id) for pair in job.explain.pairs] == [("a", "b"), ("c", "d")]
    assert job.explain.manifest.uri == manifest


Change = Callable[[Influence, job_pb2.AuditSpec], object]
PREFIX = "influence_job.audit"
REFUSED: dict[str, tuple[Change, str, str]] = {
    "neither model nor embeddings": (lambda _, spec: spec.ClearField("model"), "ARGUMENT_INVALID", PREFIX),
    "a model beside embeddings": (
        lambda influence, spec: spec.train_embeddings.MergeFrom(job_pb2.ArtifactRef(uri=influence.put("e.parquet"))),
        "ARGUMENT_INVALID",
        PREFIX,
    ),
    "decisions that are not there": (
        lambda influence, spec: spec.decisions.MergeFrom(job_pb2.ArtifactRef(uri=f"file://{influence.root}/none.csv")),
        "OBJECT_NOT_FOUND",
        f"{PREFIX}.decisions.uri",
    ),
    "too many columns": (
        lambda _, spec: spec.group_by.extend([f"c{number}" for number in range(17)]),
        "ARGUMENT_INVALID",
        f"{PREFIX}.group_by",
    ),
    "a previous audit that is not there": (
        lambda _, spec: setattr(spec, "previous_audit", "projects/p/influenceJobs/none"),
        "JOB_NOT_FOUND",
        f"{PREFIX}.previous_audit",
    ),
    "a previous audit without a name": (
        lambda _, spec: setattr(spec, "previous_audit", "x"),
        "ARGUMENT_INVALID",
        f"{PREFIX}.previous_audit",
    ),
    "a negative number of proofs": (
        lambda _, spec: setattr(spec, "proofs", -1),
        "ARGUMENT_INVALID",
        f"{PREFIX}.proofs",
    ),
    "a metric of the future": (
        lambda _, spec: setattr(spec.influence, "metric", 77),
        "ARGUMENT_INVALID",
        f"{PREFIX}.influence.metric",
    ),
}


@pytest.mark.parametrize(("change", "reason", "field"), list(REFUSED.values()), ids=list(REFUSED))
async def test_a_bad_audit_is_refused_with_its_field(
    influence: Influence, change: Change, reason: str, field: str
) -> None:
    job = audit_job(influence)
    change(influence, job.audit)
    refused = await refusal(influence.create(job))
    assert (refused.reason, refused.metadata["field"]) == (reason, field), refused.message


async def test_what_a_previous_audit_must_be(influence: Influence) -> None:
    ranked = await influence.run(SUCCEED)
    refused = await refusal(influence.create(audit_job(influence, previous_audit=ranked.name)))
    assert (refused.reason, refused.metadata["field"]) == ("ARGUMENT_INVALID", f"{PREFIX}.previous_audit")
    running = await influence.create(audit_job(influence))
    refused = await refusal(influence.create(audit_job(influence, previous_audit=running.name)))
    assert (refused.reason, refused.metadata["field"]) == ("JOB_NOT_SUCCEEDED", f"{PREFIX}.previous_audit")


async def test_a_bad_explain_job_is_refused(influence: Influence) -> None:
    spec = job_pb2.ExplainSpec(
        model=job_pb2.ArtifactRef(uri=influence.put("model/model.json", "{}")),
        manifest=job_pb2.ArtifactRef(uri=influence.put("test.csv")),
    )
    refused = await refusal(influence.create(job_pb2.InfluenceJob(explain=spec)))
    assert refused.metadata["field"] == "influence_job.explain.pairs"
    spec.pairs.extend([job_pb2.SamplePair(sample_id="a", neighbor_id="b")] * 257)
    refused = await refusal(influence.create(job_pb2.InfluenceJob(explain=spec)))
    assert refused.metadata["field"] == "influence_job.explain.pairs"
