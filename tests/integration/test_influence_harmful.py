"""Relabel jobs that refer to something: the harmful samples of a rank job, an index."""

from __future__ import annotations

import json
from pathlib import Path

from eif.influence.v1 import job_pb2

from tests.influence_app import (
    FOREVER,
    SUCCEED,
    Influence,
    refusal,
    running_influence,
)
from tests.waiting import eventually


class TestRelabelOfHarmfulSamples:
    def relabel(self, influence: Influence, job: str, query_id: str = "") -> job_pb2.InfluenceJob:
        relabel = influence.relabel_job({"do": "log", "text": "x"}, {"do": "wait_for", "path": f"{influence.root}/go"})
        relabel.relabel.samples.harmful.job = job
        relabel.relabel.samples.harmful.query_id = query_id
        return relabel

    async def test_the_job_process_is_told_where_the_ranking_is(self, influence: Influence) -> None:
        ranked = await influence.run(SUCCEED)
        created = await influence.create(self.relabel(influence, ranked.name))
        await influence.until(created, job_pb2.JOB_STATE_RUNNING)
        job_json = influence.state_dir / "jobs" / created.uid / "job.json"
        await eventually(job_json.exists)
        request = json.loads(job_json.read_text())
        ranking = next(table for table in ranked.output.tables if table.name == "ranking")
        assert request["referred"] == {"uri": ranking.uri, "sha256": ranking.sha256}

    async def test_the_ranking_must_be_there(self, influence: Influence) -> None:
        prefix = "influence_job.relabel.samples.harmful"
        ranked = await influence.run(SUCCEED)
        failed = await influence.run({"do": "fail", "reason": "IMAGE_INVALID", "message": "x"})
        other = await influence.create(influence.relabel_job(FOREVER))
        cases = [
            ("", "", "ARGUMENT_INVALID", "job"),
            ("x", "", "ARGUMENT_INVALID", "job"),
            ("projects/p/influenceJobs/none", "", "JOB_NOT_FOUND", "job"),
            (failed.name, "", "JOB_NOT_SUCCEEDED", "job"),
            (other.name, "", "ARGUMENT_INVALID", "job"),
            (ranked.name, "pair:no:no", "QUERY_NOT_FOUND", "query_id"),
        ]
        for job, query_id, reason, field in cases:
            refused = await refusal(influence.create(self.relabel(influence, job, query_id)))
            assert (refused.reason, refused.metadata["field"]) == (reason, f"{prefix}.{field}")

    async def test_an_index_needs_an_embedding_service(self, tmp_path: Path) -> None:
        index = "projects/p/indexes/i"
        async with running_influence(tmp_path) as influence:
            job = influence.relabel_job(SUCCEED)
            job.relabel.knn_index = index
            refused = await refusal(influence.create(job))
            assert (refused.reason, refused.metadata["field"]) == (
                "ARGUMENT_INVALID",
                "influence_job.relabel.knn_index",
            )
            assert "EIF_INFLUENCE_EMBEDDING_TARGET" in refused.message
        async with running_influence(tmp_path, embedding_target="127.0.0.1:1") as influence:
            job = influence.relabel_job(SUCCEED)
            job.relabel.ClearField("model")
            job.relabel.knn_index = "i"
            assert "projects/{project}/indexes/{index}" in (await refusal(influence.create(job))).message
            job.relabel.knn_index = index
            assert (await influence.create(job, validate_only=True)).relabel.knn_index == index
