"""Real jobs through a real service: they end right also when the service is killed in their middle."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from eif.influence.v1 import influence_service_pb2 as service_pb2
from eif.influence.v1 import job_pb2, results_pb2

from services.influence.spec import Artifact, RankSpec
from services.influence.spec_writer import write_rank
from tests.influence_process import InfluenceProcess, influence_process
from tests.job_world import JobWorld

Row = tuple[int, str, str, float]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("influence")


@pytest.fixture(scope="module")
def spec(folder: Path) -> RankSpec:
    (folder / "world").mkdir()
    return JobWorld(folder / "world").rank_spec(train=90, test=36)


@pytest.fixture(scope="module")
def first(folder: Path) -> Iterator[InfluenceProcess]:
    with influence_process(folder, scripted=False) as server:
        yield server


def ranking(server: InfluenceProcess, job: job_pb2.InfluenceJob) -> list[Row]:
    request = service_pb2.StreamRankedSamplesRequest(name=job.name, chunk_rows=40)
    return [
        (chunk.first_rank + place, chunk.sample_ids[place], chunk.labels[place], chunk.scores[place])
        for chunk in server.stub.StreamRankedSamples(request, timeout=60)
        for place in range(len(chunk.sample_ids))
    ]


def pairs(server: InfluenceProcess, job: job_pb2.InfluenceJob) -> list[results_pb2.ResultRow]:
    request = service_pb2.ListJobResultsRequest(name=job.name, table=results_pb2.RESULT_TABLE_PAIRS)
    return list(server.stub.ListJobResults(request, timeout=60).rows)


def relabel_of_harmful(train: Artifact, model: Artifact, ranked: job_pb2.InfluenceJob) -> job_pb2.InfluenceJob:
    harmful = job_pb2.HarmfulSamples(job=ranked.name, count=5)
    return job_pb2.InfluenceJob(
        relabel=job_pb2.RelabelSpec(
            model=job_pb2.ArtifactRef(uri=model.uri),
            train_manifest=job_pb2.ArtifactRef(uri=train.uri),
            samples=job_pb2.SampleSelection(harmful=harmful),
        )
    )


def test_kill_minus_9_in_the_middle_of_a_job_loses_nothing(
    folder: Path, spec: RankSpec, first: InfluenceProcess
) -> None:
    job = job_pb2.InfluenceJob(rank=write_rank(spec))
    created = first.create(job)
    for seen in first.watch(created):
        if seen.progress.stage:
            break
    assert seen.state == job_pb2.JOB_STATE_RUNNING
    first.kill()
    with influence_process(folder, scripted=False) as server:
        ended = server.ended(created)
        assert (ended.uid, ended.state, ended.attempt) == (created.uid, job_pb2.JOB_STATE_SUCCEEDED, 2)
        undisturbed = server.ended(server.create(job))
        assert undisturbed.attempt == 1
        rows = ranking(server, ended)
        assert rows == ranking(server, undisturbed)
        assert [rank for rank, *_ in rows] == list(range(1, 91))
        assert len({sample_id for _, sample_id, *_ in rows}) == 90
        assert pairs(server, ended) == pairs(server, undisturbed)

        relabelled = server.ended(server.create(relabel_of_harmful(spec.train_manifest, spec.model, ended)))
        assert relabelled.state == job_pb2.JOB_STATE_SUCCEEDED, relabelled.error
        request = service_pb2.ListJobResultsRequest(name=relabelled.name, table=results_pb2.RESULT_TABLE_RELABEL)
        suggested = {row.relabel.sample_id for row in server.stub.ListJobResults(request, timeout=60).rows}
        assert suggested == {sample_id for _, sample_id, *_ in rows[:5]}

        cancelled = server.create(job)
        for seen in server.watch(cancelled):
            if seen.state == job_pb2.JOB_STATE_RUNNING:
                break
        server.cancel(cancelled)
        last = server.ended(cancelled)
        assert last.state in {job_pb2.JOB_STATE_CANCELLED, job_pb2.JOB_STATE_SUCCEEDED}
        assert last.HasField("output") is (last.state == job_pb2.JOB_STATE_SUCCEEDED)
