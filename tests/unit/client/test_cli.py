from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from eif.influence.v1 import influence_service_pb2, job_pb2, results_pb2
from google.protobuf import empty_pb2

from services.client.cli import exit_codes
from tests.cli import Cli
from tests.rankings import ranking_chunks
from tests.scripted_server import Context, Handler, ScriptedServer, refuse, status

SERVICE = influence_service_pb2.DESCRIPTOR.services_by_name["InfluenceService"]
NAME = "projects/default/influenceJobs/j1"
EVIL = "evil\x1b[2J\nlabel"


def a_job(state: job_pb2.JobState.ValueType, **changes: Any) -> job_pb2.InfluenceJob:
    job = job_pb2.InfluenceJob(**{"name": NAME, "uid": "u1", "rank": job_pb2.RankSpec(), **changes})
    job.state = state
    job.progress.stage = "features"
    job.progress.done, job.progress.total, job.progress.unit = 5, 10, "samples"
    job.progress.stages_done, job.progress.stages_total = 1, 5
    if state == job_pb2.JOB_STATE_FAILED:
        job.error.CopyFrom(status(grpc.StatusCode.NOT_FOUND, "OBJECT_NOT_FOUND", "s3://b/m is not there"))
    if state == job_pb2.JOB_STATE_SUCCEEDED:
        job.output.manifest_uri = "s3://b/out/MANIFEST.json"
        job.output.tables.add(name="ranking", rows=25)
        job.output.figures["train_samples"] = 25
    return job


RUNNING = a_job(job_pb2.JOB_STATE_RUNNING)
SUCCEEDED = a_job(job_pb2.JOB_STATE_SUCCEEDED)


class Server(ScriptedServer):
    """One job, which goes through `states`; every method that `failing` names is refused with it."""

    def __init__(self) -> None:
        self.states = [RUNNING, SUCCEEDED]
        self.failing: tuple[grpc.StatusCode, str, str] | None = None
        handlers: dict[str, Handler] = {
            "CreateInfluenceJob": self._create,
            "GetInfluenceJob": self._get,
            "ListInfluenceJobs": self._list,
            "CancelInfluenceJob": self._get,
            "DeleteInfluenceJob": self._delete,
            "WatchInfluenceJob": self._watch,
            "ListJobResults": self._results,
            "StreamRankedSamples": self._stream,
        }
        super().__init__(SERVICE, handlers)

    async def _check(self, context: Context) -> None:
        if self.failing:
            code, reason, message = self.failing
            await refuse(context, code, reason, message)

    async def _create(self, _request: Any, context: Context) -> job_pb2.InfluenceJob:
        await self._check(context)
        return self.states[0]

    async def _get(self, _request: Any, context: Context) -> job_pb2.InfluenceJob:
        await self._check(context)
        return self.states[0]

    async def _list(self, request: Any, context: Context) -> influence_service_pb2.ListInfluenceJobsResponse:
        await self._check(context)
        page = int(request.page_token or 0)
        jobs = [a_job(job_pb2.JOB_STATE_RUNNING, name=f"{NAME}-{page}-{i}", display_name=EVIL) for i in range(3)]
        return influence_service_pb2.ListInfluenceJobsResponse(influence_jobs=jobs, next_page_token=str(page + 1))

    async def _delete(self, _request: Any, context: Context) -> empty_pb2.Empty:
        await self._check(context)
        return empty_pb2.Empty()

    async def _watch(self, _request: Any, context: Context) -> None:
        await self._check(context)
        for state in self.states:
            await context.write(influence_service_pb2.InfluenceJobEvent(influence_job=state))

    async def _results(self, request: Any, context: Context) -> influence_service_pb2.ListJobResultsResponse:
        await self._check(context)
        start = int(request.page_token or 0)
        rows = [
            results_pb2.ResultRow(
                ranked=results_pb2.RankedSample(query_id="all", rank=start + i, sample_id="s", label=EVIL, score=0.5)
            )
            for i in (1, 2)
        ]
        return influence_service_pb2.ListJobResultsResponse(rows=rows, next_page_token=str(start + 2), total_rows=10**9)

    async def _stream(self, request: Any, context: Context) -> None:
        await self._check(context)
        relabel = self.states[0].WhichOneof("spec") == "relabel"
        for chunk in ranking_chunks(25, relabel=relabel):
            if not request.max_rows or chunk.first_rank <= request.max_rows:
                await context.write(chunk)


RANK = ["rank", "--model", "s3://b/m", "--train", "s3://b/t", "--test", "s3://b/v"]


@pytest.fixture
def server(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    assert cli is not None
    with Server() as running:
        monkeypatch.setenv("EIF_TARGET", running.target)
        yield running


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").mkdir()
    for name in ("train.csv", "test.csv"):
        (tmp_path / name).write_text("")
    return ["--model", "m", "--train", "train.csv", "--test", "test.csv"]


def test_rank_submits_and_prints_only_the_name(cli: Cli, server: Server, inputs: list[str], tmp_path: Path) -> None:
    ended = cli("rank", *inputs, "--kind", "group", "--class", "cat", "--pair", "a", "b", "--label", "team=x=y")
    assert (ended.exit_code, ended.out, ended.err) == (0, f"{NAME}\n", "")
    (request,) = server.requests("CreateInfluenceJob")
    spec = request.influence_job.rank
    assert spec.model.uri == f"file://{tmp_path.resolve()}/m"
    assert spec.train_manifest.uri == f"file://{tmp_path.resolve()}/train.csv"
    assert spec.queries.kind == job_pb2.QuerySelection.KIND_CONFUSION_GROUPS
    assert (list(spec.queries.classes), spec.queries.pairs[0].neighbor_id) == (["cat"], "b")
    assert dict(request.influence_job.labels) == {"team": "x=y"}
    assert (spec.influence.unit_steps.radius, spec.influence.num_thetas) == (0.2, 2)


def test_rank_options_reach_the_server(cli: Cli, server: Server, inputs: list[str]) -> None:
    digests = ["--model-sha256", "aa", "--train-sha256", "bb", "--test-sha256", "cc"]
    steps = ["--steps", "7", "--lr", "0.5", "--thetas", "1", "--no-normalize", "--distance", "cosine", "--top-k", "3"]
    run = [
        "--device",
        "cpu",
        "--seed",
        "4",
        "--max-quarantined",
        "0",
        "--id",
        "j1",
        "--title",
        "t",
        "--output",
        "s3://b/o",
    ]
    assert cli("rank", *inputs, *digests, *steps, *run, "--max-queries", "2", "--project", "p2").exit_code == 0
    (request,) = server.requests("CreateInfluenceJob")
    spec = request.influence_job.rank
    assert [spec.model.sha256, spec.train_manifest.sha256, spec.test_manifest.sha256] == ["aa", "bb", "cc"]
    assert (spec.influence.published.steps, spec.influence.published.learning_rate) == (7, 0.5)
    assert (spec.influence.num_thetas, spec.influence.skip_normalization, spec.top_k) == (1, True, 3)
    assert spec.influence.distance == job_pb2.DISTANCE_COSINE
    assert (spec.run.device, spec.run.seed, spec.queries.max_queries) == (job_pb2.DEVICE_CPU, 4, 2)
    assert spec.run.HasField("max_quarantined_fraction")
    assert (request.parent, request.influence_job_id) == ("projects/p2", "j1")
    assert (request.influence_job.display_name, request.influence_job.output_uri_prefix) == ("t", "s3://b/o")


def test_relabel_options_reach_the_server(cli: Cli, server: Server, inputs: list[str]) -> None:
    common = ["relabel", *inputs[2:4]]
    assert cli(*common, "--index", "shoes", "--harmful-of", "r1", "--query", "q", "--count", "5").exit_code == 0
    assert (
        cli(*common, *inputs[:2], "--sample", "a", "--sample", "b", "--space", "embedding", "--vote", "hard").exit_code
        == 0
    )
    by_index, by_model = (request.influence_job.relabel for request in server.requests("CreateInfluenceJob"))
    assert by_index.knn_index == "projects/default/indexes/shoes"
    assert (by_index.samples.harmful.job, by_index.samples.harmful.count) == ("projects/default/influenceJobs/r1", 5)
    assert (by_model.space, by_model.vote) == (job_pb2.NEIGHBOR_SPACE_EMBEDDING, job_pb2.VOTE_RULE_HARD)
    assert list(by_model.samples.sample_ids) == ["a", "b"]


def test_check_only_keeps_nothing(cli: Cli, server: Server, inputs: list[str]) -> None:
    ended = cli("rank", *inputs, "--check-only", "--wait")
    assert (ended.exit_code, ended.out, ended.err) == (0, "", "this job would be accepted\n")
    assert [name for name, _ in server.calls] == ["CreateInfluenceJob"]
    assert server.calls[0][1].validate_only


def test_wait_shows_progress_as_lines_where_there_is_no_terminal(cli: Cli, server: Server, inputs: list[str]) -> None:
    ended = cli("rank", *inputs, "--wait")
    assert (ended.exit_code, ended.out) == (0, f"{NAME}\n")
    assert ended.err.splitlines() == [
        f"submitted {NAME}",
        "j1 features (2 of 5): 5/10 samples",
        "j1 succeeded",
        "results: ranking (25 rows); `eif results j1 --table NAME`",
    ]
    assert server.wait_until_idle()


def test_wait_as_json(cli: Cli, server: Server, inputs: list[str]) -> None:
    assert server.port
    ended = cli("rank", *inputs, "--wait", "--json")
    job = json.loads(ended.out)
    assert (job["state"], job["output"]["tables"][0]["rows"], job["error"]) == ("SUCCEEDED", 25, None)


def test_watch_as_json_lines(cli: Cli, server: Server) -> None:
    assert server.port
    ended = cli("watch", "j1", "--json")
    assert [json.loads(line)["state"] for line in ended.out.splitlines()] == ["RUNNING", "SUCCEEDED"]
    assert ended.exit_code == 0


def test_a_job_that_failed(cli: Cli, server: Server) -> None:
    server.states = [RUNNING, a_job(job_pb2.JOB_STATE_FAILED)]
    ended = cli("watch", "j1")
    assert ended.exit_code == exit_codes.FAILED
    assert ended.err.splitlines()[-1] == "error: OBJECT_NOT_FOUND: s3://b/m is not there"


def test_a_job_that_was_cancelled(cli: Cli, server: Server) -> None:
    server.states = [a_job(job_pb2.JOB_STATE_CANCELLED)]
    assert cli("watch", "j1").exit_code == exit_codes.CANCELLED
    ended = cli("jobs", "cancel", "j1", "--wait")
    assert (ended.exit_code, ended.out) == (0, f"{NAME} CANCELLED\n")


def test_a_wait_that_is_over(cli: Cli, server: Server) -> None:
    server.states = [RUNNING]
    ended = cli("watch", "j1", "--give-up-after", "0.2")
    assert ended.exit_code == exit_codes.NOT_NOW
    assert ended.err.splitlines()[-1].startswith(f"error: WAIT_TIMEOUT: {NAME} has not ended after 0.2 s; it goes on")


@pytest.mark.parametrize(
    ("code", "reason", "exit_code"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "ARGUMENT_INVALID", exit_codes.FAILED),
        (grpc.StatusCode.PERMISSION_DENIED, "URI_NOT_ALLOWED", exit_codes.FAILED),
        (grpc.StatusCode.INTERNAL, "INTERNAL", exit_codes.FAILED),
        (grpc.StatusCode.ALREADY_EXISTS, "JOB_ALREADY_EXISTS", exit_codes.FAILED),
        (grpc.StatusCode.DATA_LOSS, "RESULT_CORRUPT", exit_codes.FAILED),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", exit_codes.UNREACHABLE),
        (grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND", exit_codes.NOT_FOUND),
        (grpc.StatusCode.CANCELLED, "JOB_CANCELLED", exit_codes.CANCELLED),
        (grpc.StatusCode.FAILED_PRECONDITION, "JOB_NOT_SUCCEEDED", exit_codes.NOT_NOW),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", exit_codes.NOT_NOW),
        (grpc.StatusCode.ABORTED, "ETAG_MISMATCH", exit_codes.NOT_NOW),
    ],
)
@pytest.mark.parametrize(
    "command", [("jobs", "delete", "j1"), ("results", "j1", "--table", "ranking"), ("stream", "j1")]
)
def test_what_a_server_refuses_is_one_line(
    cli: Cli, server: Server, code: grpc.StatusCode, reason: str, exit_code: int, command: tuple[str, ...]
) -> None:
    server.failing = (code, reason, "what is\nwrong\x1b[31m")
    ended = cli(*command)
    assert (ended.exit_code, ended.out) == (exit_code, "")
    (line,) = ended.err.splitlines()
    assert line.startswith(f"error: {reason}: what is wrong\\x1b[31m")


def test_hints_say_what_to_do(cli: Cli, server: Server) -> None:
    server.failing = (grpc.StatusCode.PERMISSION_DENIED, "URI_NOT_ALLOWED", "file:///x is not allowed")
    assert "eif serve all --file-root" in cli("jobs", "get", "j1").err
    server.failing = (grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND", "no job j1")
    assert "`eif jobs list`" in cli("jobs", "get", "j1").err


def test_no_server(cli: Cli, free_port: int) -> None:
    ended = cli("jobs", "get", "j1", "--target", f"127.0.0.1:{free_port}")
    assert ended.exit_code == exit_codes.UNREACHABLE
    assert ended.err == (
        f"error: SERVER_UNREACHABLE: no server answers at 127.0.0.1:{free_port} (Connection refused); "
        "start one with `eif serve all`, or name another with --target or EIF_TARGET\n"
    )


def test_jobs_list_stops_at_its_limit_and_is_sanitised(cli: Cli, server: Server) -> None:
    ended = cli("jobs", "list", "--limit", "5", "--state", "running")
    assert ended.exit_code == 0
    assert len(ended.out.splitlines()) == 6
    assert "\x1b" not in ended.out
    assert "evil\\x1b[2J\\x0alabel" in ended.out
    assert len(server.requests("ListInfluenceJobs")) == 2
    assert list(server.requests("ListInfluenceJobs")[0].states) == [job_pb2.JOB_STATE_RUNNING]


def test_jobs_get(cli: Cli, server: Server) -> None:
    shown = cli("jobs", "get", "j1").out
    assert "progress     j1 features (2 of 5): 5/10 samples" in shown
    server.states = [SUCCEEDED]
    shown = cli("jobs", "get", "j1").out
    assert "results      s3://b/out/MANIFEST.json" in shown
    assert "train_samples 25" in shown
    server.states = [a_job(job_pb2.JOB_STATE_FAILED)]
    assert "error        OBJECT_NOT_FOUND: s3://b/m is not there" in cli("jobs", "get", "j1").out
    assert json.loads(cli("jobs", "get", "j1", "--json").out)["error"]["reason"] == "OBJECT_NOT_FOUND"


def test_jobs_delete_takes_many(cli: Cli, server: Server) -> None:
    assert cli("jobs", "delete", "j1", "projects/p/influenceJobs/j2").out == (
        "deleted j1\ndeleted projects/p/influenceJobs/j2\n"
    )
    assert [request.name for request in server.requests("DeleteInfluenceJob")] == [
        "projects/default/influenceJobs/j1",
        "projects/p/influenceJobs/j2",
    ]


def test_results_are_paged_up_to_the_limit(cli: Cli, server: Server) -> None:
    ended = cli("results", "j1", "--table", "ranking", "--limit", "5", "--query", "q", "--format", "jsonl")
    assert [json.loads(line)["rank"] for line in ended.out.splitlines()] == [1, 2, 3, 4, 5]
    assert json.loads(ended.out.splitlines()[0])["label"] == EVIL
    assert [request.query_id for request in server.requests("ListJobResults")] == ["q", "q", "q"]
    assert "\x1b" not in cli("results", "j1", "--table", "ranking", "--limit", "1").out


def test_stream_in_every_format(cli: Cli, server: Server) -> None:
    table, jsonl, csv = (cli("stream", "j1", "--format", form).out.splitlines() for form in ("table", "jsonl", "csv"))
    assert table[0].split() == ["query_id", "rank", "sample_id", "label", "score", "effect"]
    assert [len(table), len(jsonl), len(csv)] == [26, 25, 26]
    assert json.loads(jsonl[0]) == {
        "query_id": "all",
        "rank": 1,
        "sample_id": "s1",
        "label": "label-1",
        "score": 0.46,
        "effect": "harmful",
    }
    assert csv[:2] == ["query_id,rank,sample_id,label,score,effect", "all,1,s1,label-1,0.46,harmful"]
    assert cli("stream", "j1", "--max-rows", "10", "--order", "helpful").out.count("\n") == 11
    request = server.requests("StreamRankedSamples")[-1]
    assert (request.max_rows, request.order) == (10, results_pb2.RANK_ORDER_HELPFUL_FIRST)


def test_stream_of_a_relabel_job(cli: Cli, server: Server) -> None:
    server.states = [a_job(job_pb2.JOB_STATE_SUCCEEDED, rank=None, relabel=job_pb2.RelabelSpec())]
    ended = cli("stream", "j1", "--format", "csv")
    assert ended.out.splitlines()[:2] == [
        "rank,sample_id,label,score,suggested_label,suggested_probability",
        "1,s1,label-1,0.46,label-2,0.75",
    ]
    refused = cli("stream", "j1", "--query", "q")
    assert (refused.exit_code, refused.out) == (exit_codes.FAILED, "")
    assert refused.err.startswith("error: --query: the ranking of a relabel job has no queries")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["rank"], "Missing option '--model'"),
        (["results", "j1"], "Missing option '--table'"),
        (["results", "j1", "--table", "quarantine", "--query", "q"], "--query goes with --table ranking or pairs"),
        (
            ["rank", "--model", "s3://b/m", "--train", "s3://b/t", "--test", "s3://b/v", "--lr", "1"],
            "--lr goes with --steps",
        ),
        (
            [
                "rank",
                "--model",
                "s3://b/m",
                "--train",
                "s3://b/t",
                "--test",
                "s3://b/v",
                "--steps",
                "1",
                "--radius",
                "1",
            ],
            "--radius and --steps exclude each other",
        ),
        (
            ["rank", "--model", "s3://b/m", "--train", "s3://b/t", "--test", "s3://b/v", "--label", "x"],
            "give KEY=VALUE",
        ),
        ([*RANK, "--steps", "1", "--first-order"], "--steps excludes --unit-steps and --first-order"),
        ([*RANK, "--unit-steps", "2", "--first-order"], "--unit-steps and --first-order exclude each other"),
        ([*RANK, "--damping", "0.1"], "--damping goes with --metric kfac"),
        (["relabel", "--train", "s3://b/t"], "give --model, or --index"),
        (
            ["relabel", "--train", "s3://b/t", "--index", "i", "--count", "3"],
            "--query and --count go with --harmful-of",
        ),
        (["search", "idx"], "say what to look for"),
        (["jobs", "list", "--state", "sleeping"], "is not one of"),
        (["jobs", "list", "--timeout", "0"], "not in the range"),
    ],
)
def test_a_wrong_command_line(cli: Cli, arguments: list[str], said: str) -> None:
    ended = cli(*arguments)
    assert (ended.exit_code, ended.out) == (exit_codes.USAGE, "")
    assert said in ended.err


def test_a_path_that_is_not_there_is_no_usage_error(cli: Cli) -> None:
    ended = cli("rank", "--model", "no-such", "--train", "s3://b/t", "--test", "s3://b/v")
    assert ended.exit_code == exit_codes.FAILED
    assert ended.err == "error: no-such: no such file or folder here; give a path, s3://bucket/key or file:///path\n"


def test_interrupted_while_waiting(
    cli: Cli, server: Server, inputs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_steps: object) -> None:
        raise KeyboardInterrupt

    assert server.port
    monkeypatch.setattr("services.client.cli.following.show", interrupt)
    ended = cli("rank", *inputs, "--wait")
    assert (ended.exit_code, ended.out) == (exit_codes.INTERRUPTED, "")
    assert ended.err.splitlines()[-1] == (
        f"stopped watching; {NAME} goes on: `eif watch j1` follows it, `eif jobs cancel j1` stops it"
    )


def test_a_fault_of_eif_itself_is_a_line_and_with_debug_a_traceback(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("services.client.cli.info._ask", broken)
    ended = cli("info")
    assert ended.exit_code == exit_codes.FAILED
    (line,) = ended.err.splitlines()
    assert line.startswith("error: INTERNAL: ZeroDivisionError: oops; a fault of eif itself")
    monkeypatch.setenv("EIF_DEBUG", "1")
    assert "Traceback" in cli("info").err


def test_version_and_help(cli: Cli) -> None:
    assert cli("--version").out.startswith("eif 0.")
    assert "From nothing to ranked samples" in cli("--help").out
    assert cli("jobs").exit_code == exit_codes.USAGE


def test_info_without_servers(cli: Cli, free_port: int) -> None:
    targets = ["--target", f"127.0.0.1:{free_port}", "--embedding-target", f"127.0.0.1:{free_port}"]
    ended = cli("info", "--json", *targets)
    assert ended.exit_code == exit_codes.UNREACHABLE
    assert json.loads(ended.out)["embedding"]["error"].startswith("SERVER_UNREACHABLE: no server answers")
