"""`eif audit`, `explain`, `fetch` and `table`, against a scripted server."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import grpc
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from eif.influence.v1 import audit_pb2, influence_service_pb2, job_pb2

from services.client.cli import exit_codes
from tests.cli import Cli
from tests.scripted_server import Context, Handler, ScriptedServer, refuse

SERVICE = influence_service_pb2.DESCRIPTOR.services_by_name["InfluenceService"]
NAME = "projects/default/influenceJobs/j1"
ISSUES = pa.table({"sample_id": ["a", "b\x1b[2J"], "label": ["x", "y"], "issue_probability": [0.9, 0.1]})


def parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


class Server(ScriptedServer):
    """One audit that has succeeded, with two files."""

    def __init__(self) -> None:
        self.files = {"report.html": b"<!doctype html>", "issues.parquet": parquet(ISSUES)}
        handlers: dict[str, Handler] = {
            "CreateInfluenceJob": self._create,
            "GetInfluenceJob": self._get,
            "ReadJobFile": self._read,
        }
        super().__init__(SERVICE, handlers)

    async def _create(self, request: Any, _context: Context) -> job_pb2.InfluenceJob:
        job: job_pb2.InfluenceJob = request.influence_job
        job.name = NAME
        return job

    async def _get(self, _request: Any, _context: Context) -> job_pb2.InfluenceJob:
        job = job_pb2.InfluenceJob(name=NAME, state=job_pb2.JOB_STATE_SUCCEEDED, audit=job_pb2.AuditSpec())
        job.output.tables.add(name="issues", rows=2)
        job.output.files.add(name="report.html", size_bytes=15)
        return job

    async def _read(self, request: Any, context: Context) -> None:
        data = self.files.get(request.file)
        if data is None:
            await refuse(context, grpc.StatusCode.NOT_FOUND, "FILE_NOT_FOUND", f"no file {request.file}")
            return
        await context.write(
            audit_pb2.FileChunk(
                data=data,
                total_bytes=len(data),
                crc32c=google_crc32c.value(data),
                sha256=hashlib.sha256(data).hexdigest(),
            )
        )


@pytest.fixture
def server(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    assert cli is not None
    monkeypatch.chdir(tmp_path)
    with Server() as running:
        monkeypatch.setenv("EIF_TARGET", running.target)
        yield running


DATA = ["--train", "s3://b/train.csv", "--test", "s3://b/test.csv"]


def test_every_option_of_an_audit_reaches_the_server(cli: Cli, server: Server) -> None:
    options = ["--decisions", "s3://b/d.csv", "--previous", "monday", "--group-by", "source", "--group-by", "batch"]
    more = ["--top-k", "7", "--proofs", "0", "--first-order", "--no-report", "--seed", "4", "--model-sha256", "aa"]
    ended = cli("audit", "--model", "s3://b/m", *DATA, *options, *more)
    assert (ended.exit_code, ended.out) == (0, f"{NAME}\n")
    (request,) = server.requests("CreateInfluenceJob")
    spec = request.influence_job.audit
    assert (spec.model.uri, spec.model.sha256, spec.decisions.uri) == ("s3://b/m", "aa", "s3://b/d.csv")
    assert (spec.previous_audit, list(spec.group_by)) == ("projects/default/influenceJobs/monday", ["source", "batch"])
    assert (spec.top_k, spec.HasField("proofs"), spec.proofs, spec.skip_report) == (7, True, 0, True)
    assert (spec.influence.WhichOneof("step"), spec.run.seed) == ("first_order", 4)


def test_an_audit_with_defaults_leaves_them_to_the_server(cli: Cli, server: Server) -> None:
    assert cli("audit", "--model", "s3://b/m", *DATA).exit_code == 0
    (request,) = server.requests("CreateInfluenceJob")
    spec = request.influence_job.audit
    assert not spec.HasField("proofs")
    assert not spec.HasField("train_embeddings")
    assert (spec.top_k, spec.skip_report, spec.previous_audit) == (0, False, "")


def test_embeddings_stand_in_for_a_model(cli: Cli, server: Server) -> None:
    given = ["--train-embeddings", "s3://b/a.parquet", "--test-embeddings", "s3://b/b.parquet"]
    assert cli("audit", *DATA, *given).exit_code == 0
    (request,) = server.requests("CreateInfluenceJob")
    spec = request.influence_job.audit
    assert not spec.HasField("model")
    assert (spec.train_embeddings.uri, spec.test_embeddings.uri) == ("s3://b/a.parquet", "s3://b/b.parquet")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["audit", *DATA], "give --model"),
        (["audit", *DATA, "--train-embeddings", "s3://b/a"], "--test-embeddings"),
        (["audit", *DATA, "--model", "s3://b/m", "--test-embeddings", "s3://b/a"], "excludes"),
        (["explain", "--model", "s3://b/m", "--manifest", "s3://b/t.csv"], "--pair"),
    ],
)
def test_what_does_not_go_together_is_a_usage_error(cli: Cli, arguments: list[str], said: str) -> None:
    ended = cli(*arguments)
    assert ended.exit_code == exit_codes.USAGE
    assert said in ended.err


def test_pairs_to_explain_reach_the_server(cli: Cli, server: Server) -> None:
    pairs = ["--pair", "a", "b", "--pair", "c", "d"]
    assert cli("explain", "--model", "s3://b/m", "--manifest", "s3://b/t.csv", *pairs).exit_code == 0
    (request,) = server.requests("CreateInfluenceJob")
    assert [(pair.sample_id, pair.neighbor_id) for pair in request.influence_job.explain.pairs] == [
        ("a", "b"),
        ("c", "d"),
    ]


def test_files_are_listed_and_fetched_and_nothing_is_overwritten(cli: Cli, server: Server, tmp_path: Path) -> None:
    assert server is not None
    assert cli("fetch", "j1").out == "issues.parquet\t2 rows\nreport.html\t15 bytes\n"
    assert cli("fetch", "j1", "report.html").out == "report.html\n"
    assert (tmp_path / "report.html").read_bytes() == b"<!doctype html>"
    again = cli("fetch", "j1", "report.html")
    assert again.exit_code == 1
    assert "there already" in again.err
    assert cli("fetch", "j1", "report.html", "--force").exit_code == 0
    (tmp_path / "folder").mkdir()
    assert cli("fetch", "j1", "report.html", "-o", "folder").exit_code == 0
    assert (tmp_path / "folder" / "report.html").exists()
    unknown = cli("fetch", "j1", "nothing.html")
    assert (unknown.exit_code, (tmp_path / "nothing.html").exists()) == (exit_codes.NOT_FOUND, False)


def test_any_table_is_printed(cli: Cli, server: Server) -> None:
    assert server is not None
    assert cli("table", "j1", "issues", "--format", "csv", "--columns", "sample_id,label").out == (
        "sample_id,label\na,x\nb\\x1b[2J,y\n"
    )
    assert '"issue_probability": 0.9' in cli("table", "j1", "issues", "--limit", "1", "--format", "jsonl").out
    wrong = cli("table", "j1", "issues", "--columns", "nothing")
    assert wrong.exit_code == 1
    assert "sample_id, label, issue_probability" in wrong.err
