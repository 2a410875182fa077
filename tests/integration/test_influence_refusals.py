"""What InfluenceService refuses: the status, the reason, and the field in the message; and that it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from eif.influence.v1 import influence_service_pb2 as service_pb2
from eif.influence.v1 import job_pb2, results_pb2

from tests.influence_app import (
    PARENT,
    SUCCEED,
    Change,
    Influence,
    refusal,
    running_influence,
)


def uri(value: str) -> Change:
    return lambda job: setattr(job.rank.model, "uri", value)


BAD_JOBS: list[tuple[str, Change, str, str]] = [
    ("no spec", lambda job: job.ClearField("rank"), "ARGUMENT_INVALID", "influence_job"),
    ("no model", lambda job: job.rank.ClearField("model"), "ARGUMENT_INVALID", "influence_job.rank.model"),
    (
        "no train",
        lambda job: job.rank.ClearField("train_manifest"),
        "ARGUMENT_INVALID",
        "influence_job.rank.train_manifest",
    ),
    (
        "no test",
        lambda job: job.rank.ClearField("test_manifest"),
        "ARGUMENT_INVALID",
        "influence_job.rank.test_manifest",
    ),
    ("no uri", uri(""), "ARGUMENT_INVALID", "influence_job.rank.model.uri"),
    ("long uri", uri("s3://" + "x" * 5000), "ARGUMENT_INVALID", "influence_job.rank.model.uri"),
    (
        "sha256",
        lambda job: setattr(job.rank.model, "sha256", "xyz"),
        "ARGUMENT_INVALID",
        "influence_job.rank.model.sha256",
    ),
    ("http", uri("http://host/model.json"), "URI_NOT_ALLOWED", "influence_job.rank.model.uri"),
    ("other folder", uri("file:///etc"), "URI_NOT_ALLOWED", "influence_job.rank.model.uri"),
    ("s3 is off", uri("s3://bucket/model"), "URI_NOT_ALLOWED", "influence_job.rank.model.uri"),
    ("top_k", lambda job: setattr(job.rank, "top_k", -1), "ARGUMENT_INVALID", "influence_job.rank.top_k"),
    ("kind", lambda job: setattr(job.rank.queries, "kind", 77), "ARGUMENT_INVALID", "influence_job.rank.queries.kind"),
    (
        "max_queries",
        lambda job: setattr(job.rank.queries, "max_queries", -3),
        "ARGUMENT_INVALID",
        "influence_job.rank.queries.max_queries",
    ),
    (
        "pair",
        lambda job: job.rank.queries.pairs.add(sample_id="a"),
        "ARGUMENT_INVALID",
        "influence_job.rank.queries.pairs[0].neighbor_id",
    ),
    (
        "pairs and classes",
        lambda job: job.rank.queries.MergeFrom(
            job_pb2.QuerySelection(pairs=[job_pb2.SamplePair(sample_id="a", neighbor_id="b")], classes=["c"])
        ),
        "ARGUMENT_INVALID",
        "influence_job.rank.queries",
    ),
    (
        "radius",
        lambda job: setattr(job.rank.influence, "radius", 0.0),
        "ARGUMENT_INVALID",
        "influence_job.rank.influence.radius",
    ),
    (
        "radius nan",
        lambda job: setattr(job.rank.influence, "radius", float("nan")),
        "ARGUMENT_INVALID",
        "influence_job.rank.influence.radius",
    ),
    (
        "steps",
        lambda job: setattr(job.rank.influence.published, "steps", -1),
        "ARGUMENT_INVALID",
        "influence_job.rank.influence.published.steps",
    ),
    (
        "thetas",
        lambda job: job.rank.influence.MergeFrom(
            job_pb2.InfluenceOptions(num_thetas=3, published=job_pb2.PublishedSteps())
        ),
        "ARGUMENT_INVALID",
        "influence_job.rank.influence",
    ),
    (
        "thetas of several steps",
        lambda job: job.rank.influence.MergeFrom(
            job_pb2.InfluenceOptions(num_thetas=3, unit_steps=job_pb2.UnitSteps())
        ),
        "ARGUMENT_INVALID",
        "influence_job.rank.influence",
    ),
    (
        "unit steps",
        lambda job: setattr(job.rank.influence.unit_steps, "steps", 10_001),
        "ARGUMENT_INVALID",
        "influence_job.rank.influence.unit_steps.steps",
    ),
    (
        "first order",
        lambda job: setattr(job.rank.influence.first_order, "radius", -1.0),
        "ARGUMENT_INVALID",
        "influence_job.rank.influence.first_order.radius",
    ),
    (
        "metric of published steps",
        lambda job: job.rank.influence.MergeFrom(
            job_pb2.InfluenceOptions(metric=job_pb2.METRIC_KFAC, published=job_pb2.PublishedSteps())
        ),
        "ARGUMENT_INVALID",
        "influence_job.rank.influence",
    ),
    (
        "metric",
        lambda job: setattr(job.rank.influence, "metric", 9),
        "ARGUMENT_INVALID",
        "influence_job.rank.influence.metric",
    ),
    (
        "damping",
        lambda job: setattr(job.rank.influence, "damping", -0.5),
        "ARGUMENT_INVALID",
        "influence_job.rank.influence.damping",
    ),
    (
        "distance",
        lambda job: setattr(job.rank.influence, "distance", 9),
        "ARGUMENT_INVALID",
        "influence_job.rank.influence.distance",
    ),
    ("device", lambda job: setattr(job.rank.run, "device", 9), "ARGUMENT_INVALID", "influence_job.rank.run.device"),
    (
        "fraction",
        lambda job: setattr(job.rank.run, "max_quarantined_fraction", 1.5),
        "ARGUMENT_INVALID",
        "influence_job.rank.run.max_quarantined_fraction",
    ),
    ("title", lambda job: setattr(job, "display_name", "x" * 129), "ARGUMENT_INVALID", "influence_job.display_name"),
    (
        "labels",
        lambda job: job.labels.update({str(n): "" for n in range(65)}),
        "ARGUMENT_INVALID",
        "influence_job.labels",
    ),
    ("label", lambda job: job.labels.update({"key": "x" * 65}), "ARGUMENT_INVALID", "influence_job.labels['key']"),
    (
        "output",
        lambda job: setattr(job, "output_uri_prefix", "file:///etc"),
        "URI_NOT_ALLOWED",
        "influence_job.output_uri_prefix",
    ),
    (
        "no relabel model",
        lambda job: job.relabel.train_manifest.CopyFrom(job_pb2.ArtifactRef(uri="file:///x.csv")),
        "ARGUMENT_INVALID",
        "influence_job.relabel",
    ),
]


@pytest.mark.parametrize(("change", "reason", "field"), [bad[1:] for bad in BAD_JOBS], ids=[bad[0] for bad in BAD_JOBS])
async def test_a_bad_job_is_refused_with_its_field(
    influence: Influence, change: Change, reason: str, field: str
) -> None:
    job = influence.rank_job(SUCCEED)
    change(job)
    refused = await refusal(influence.create(job))
    assert (refused.reason, refused.metadata["field"]) == (reason, field)
    assert refused.message.startswith(f"{field}: ")
    expected = {"ARGUMENT_INVALID": "INVALID_ARGUMENT", "URI_NOT_ALLOWED": "PERMISSION_DENIED"}[reason]
    assert refused.code.name == expected
    assert (await influence.create(influence.rank_job(SUCCEED), validate_only=True)).name


async def test_all_of_them_leave_a_server_that_answers(influence: Influence) -> None:
    for _, change, reason, _ in BAD_JOBS:
        job = influence.rank_job(SUCCEED)
        change(job)
        assert (await refusal(influence.create(job))).reason == reason
    assert (await influence.run(SUCCEED)).state == job_pb2.JOB_STATE_SUCCEEDED


@pytest.mark.parametrize("which", ["model", "train_manifest", "test_manifest"])
async def test_inputs_that_do_not_exist_are_told_at_once(influence: Influence, which: str) -> None:
    job = influence.rank_job(SUCCEED)
    missing = f"file://{influence.root}/none" + ("" if which == "model" else ".csv")
    getattr(job.rank, which).uri = missing
    refused = await refusal(influence.create(job))
    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "OBJECT_NOT_FOUND")
    assert refused.message.startswith(f"influence_job.rank.{which}.uri: ")
    assert missing in refused.message


async def test_a_model_is_named_by_its_folder_or_its_file(influence: Influence) -> None:
    job = influence.rank_job(SUCCEED)
    for model in ("model", "model/", "model/model.json"):
        job.rank.model.uri = f"file://{influence.root}/{model}"
        await influence.create(job, validate_only=True)


async def test_a_manifest_of_another_format_is_refused(influence: Influence) -> None:
    job = influence.rank_job(SUCCEED)
    job.rank.test_manifest.uri = influence.put("test.txt")
    refused = await refusal(influence.create(job))
    assert (refused.reason, refused.metadata["field"]) == (
        "MANIFEST_INVALID",
        "influence_job.rank.test_manifest.uri",
    )
    assert ".parquet, .jsonl, .jsonl.gz, .csv" in refused.message


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"parent": "x"}, "parent"),
        ({"parent": ""}, "parent"),
        ({"influence_job_id": "Not-Good"}, "influence_job_id"),
        ({"request_id": "1"}, "request_id"),
    ],
)
async def test_a_bad_request_is_refused_with_its_field(
    influence: Influence, fields: dict[str, str], field: str
) -> None:
    given: dict[str, Any] = {"parent": PARENT, "influence_job": influence.rank_job(SUCCEED), **fields}
    request = service_pb2.CreateInfluenceJobRequest(**given)
    refused = await refusal(influence.stub.CreateInfluenceJob(request))
    assert (refused.reason, refused.metadata) == ("ARGUMENT_INVALID", {"field": field})


async def test_results_need_a_place(tmp_path: Path) -> None:
    async with running_influence(tmp_path, output_uri_prefix=None) as influence:
        refused = await refusal(influence.create(influence.rank_job(SUCCEED)))
        assert (refused.reason, refused.metadata["field"]) == (
            "ARGUMENT_INVALID",
            "influence_job.output_uri_prefix",
        )
        job = influence.rank_job(SUCCEED, output_uri_prefix=f"file://{influence.root}/mine/")
        ended = await influence.ended(await influence.create(job))
        assert ended.output.manifest_uri == f"file://{influence.root}/mine/{ended.uid}/MANIFEST.json"


async def test_an_unknown_job_is_not_found_by_any_method(influence: Influence) -> None:
    name = "projects/p/influenceJobs/none"
    stub = influence.stub
    calls: list[Any] = [
        stub.GetInfluenceJob(service_pb2.GetInfluenceJobRequest(name=name)),
        stub.CancelInfluenceJob(service_pb2.CancelInfluenceJobRequest(name=name)),
        stub.DeleteInfluenceJob(service_pb2.DeleteInfluenceJobRequest(name=name)),
        stub.ListJobResults(service_pb2.ListJobResultsRequest(name=name, table=results_pb2.RESULT_TABLE_RANKING)),
        anext(aiter(stub.WatchInfluenceJob(service_pb2.WatchInfluenceJobRequest(name=name)))),
        anext(aiter(stub.StreamRankedSamples(service_pb2.StreamRankedSamplesRequest(name=name)))),
    ]
    for call in calls:
        refused = await refusal(call)
        assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND")
        assert name in refused.message


async def test_a_malformed_name_is_refused_by_any_method(influence: Influence) -> None:
    stub = influence.stub
    calls: list[Any] = [
        stub.GetInfluenceJob(service_pb2.GetInfluenceJobRequest(name="x")),
        stub.CancelInfluenceJob(service_pb2.CancelInfluenceJobRequest()),
        stub.DeleteInfluenceJob(service_pb2.DeleteInfluenceJobRequest(name="projects/p/influenceJobs/")),
        stub.ListJobResults(service_pb2.ListJobResultsRequest(name="x" * 100_000)),
        anext(aiter(stub.WatchInfluenceJob(service_pb2.WatchInfluenceJobRequest(name="\n")))),
        anext(aiter(stub.StreamRankedSamples(service_pb2.StreamRankedSamplesRequest(name="ü")))),
    ]
    for call in calls:
        refused = await refusal(call)
        assert (refused.reason, refused.metadata) == ("ARGUMENT_INVALID", {"field": "name"})
