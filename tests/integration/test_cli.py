"""The `eif` command as processes of its own, against the real services."""

from __future__ import annotations

import csv
import io
import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli import Ended, run_eif
from tests.system import System, running_system


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with running_system(tmp_path_factory.mktemp("system")) as running:
        yield running


@pytest.fixture(scope="module")
def rank_job(system: System) -> str:
    """The name of a rank job that has succeeded; paths are relative to where the command runs."""
    ended = eif(
        system, "rank --model model --train train.jsonl --test test.jsonl --top-k 4 --id mine --title 'my job' --wait"
    )
    assert ended.exit_code == 0, ended.err
    return ended.out.strip()


@pytest.fixture(scope="module")
def index(system: System) -> str:
    """The id of an index that is ready."""
    assert eif(system, "model load tiny --onnx onnx").out == "projects/default/models/tiny\n"
    ended = eif(system, "index create train --model tiny --manifest train.jsonl --wait")
    assert ended.exit_code == 0, ended.err
    assert "train is ready: 30 samples of size 4" in ended.err
    return "train"


def eif(system: System, line: str, *, stdin: str = "") -> Ended:
    return run_eif(*shlex.split(line), variables=system.variables, cwd=system.files, stdin=stdin)


def jsonl(ended: Ended) -> list[dict[str, object]]:
    assert ended.exit_code == 0, ended.err
    return [json.loads(line) for line in ended.out.splitlines()]


def test_rank_then_results_then_stream(system: System, rank_job: str) -> None:
    pairs = jsonl(eif(system, f"results {rank_job} --table pairs --format jsonl --limit 0"))
    assert pairs
    assert {pair["kind"] for pair in pairs} == {"confusion"}
    ranking = jsonl(eif(system, f"stream {rank_job} --format jsonl"))
    assert [row["rank"] for row in ranking] == list(range(1, 31))
    assert [row["score"] for row in ranking] == sorted((row["score"] for row in ranking), reverse=True)  # type: ignore[type-var]  # numbers
    helpful = jsonl(eif(system, f"stream {rank_job} --format jsonl --order helpful --max-rows 3"))
    assert [row["sample_id"] for row in helpful] == [row["sample_id"] for row in ranking[:-4:-1]]
    one = jsonl(eif(system, f"stream {rank_job} --query {pairs[0]['query_id']} --format jsonl"))
    assert [row["rank"] for row in one] == [1, 2, 3, 4, 27, 28, 29, 30]
    paged = jsonl(eif(system, f"results {rank_job} --table ranking --format jsonl --limit 0"))
    assert paged == ranking


def test_a_ranking_as_csv_and_as_table(system: System, rank_job: str) -> None:
    table = eif(system, f"stream {rank_job} --max-rows 5")
    assert table.out.splitlines()[0].split() == ["query_id", "rank", "sample_id", "label", "score", "effect"]
    assert "\x1b" not in table.out
    rows = list(csv.DictReader(io.StringIO(eif(system, f"stream {rank_job} --max-rows 5 --format csv").out)))
    assert [int(row["rank"]) for row in rows] == [1, 2, 3, 4, 5]


def test_relabel_by_the_model_and_by_the_index(system: System, rank_job: str, index: str) -> None:
    by_model = eif(system, "relabel --model model --train train.jsonl --wait --json")
    job = json.loads(by_model.out)
    assert (by_model.exit_code, job["state"], job["kind"]) == (0, "SUCCEEDED", "relabel")
    suggestions = jsonl(eif(system, f"results {job['name']} --table relabel --limit 0 --format jsonl"))
    assert len(suggestions) == 30
    assert suggestions[0]["neighbors"]
    harmful = eif(system, f"relabel --index {index} --train train.jsonl --harmful-of {rank_job} --count 3 --wait")
    assert harmful.exit_code == 0, harmful.err
    streamed = jsonl(eif(system, f"stream {harmful.out.strip()} --format jsonl"))
    assert len(streamed) == 3
    assert set(streamed[0]) == {"rank", "sample_id", "label", "score", "suggested_label", "suggested_probability"}


def test_jobs(system: System, rank_job: str) -> None:
    assert rank_job == "projects/default/influenceJobs/mine"
    submit = (
        "rank --model model --train train.jsonl --test test.jsonl --request-id 6f1c7a52-9b3e-4d43-9a51-5f0f5b7f3d11"
    )
    job = eif(system, submit).out.strip()
    assert eif(system, submit).out.strip() == job
    listed = jsonl(eif(system, "jobs list --format jsonl"))
    assert [row["name"] for row in listed if row["name"] in {"mine", job.rpartition("/")[2]}][-1] == "mine"
    assert [row["title"] for row in listed if row["name"] == "mine"] == ["my job"]
    cancelled = eif(system, f"jobs cancel {job} --wait")
    state = cancelled.out.split()[1]
    assert state in {"CANCELLED", "SUCCEEDED"}
    assert eif(system, f"watch {job}").exit_code == (5 if state == "CANCELLED" else 0)
    assert eif(system, f"jobs delete {job}").out == f"deleted {job}\n"
    assert eif(system, f"jobs get {job}").exit_code == 4
    assert eif(system, "jobs cancel mine").out == "projects/default/influenceJobs/mine SUCCEEDED\n"
    assert "ranking" in eif(system, "jobs get mine").out
    assert eif(system, "jobs list --project other").err == "no jobs\n"


def test_models_and_indexes(system: System, index: str) -> None:
    (model,) = jsonl(eif(system, "model list --format jsonl"))
    assert (model["model_id"], model["embedding_dim"], model["feature_dim"]) == ("tiny", 4, 6)
    assert eif(system, "model delete tiny").exit_code == 6
    (listed,) = jsonl(eif(system, "index list --format jsonl"))
    assert (listed["index_id"], listed["state"], listed["samples_done"]) == (index, "READY", 30)
    assert "state        READY" in eif(system, f"index get {index}").out
    assert json.loads(eif(system, f"index get {index} --json").out)["dim"] == 4
    assert eif(system, f"index watch {index}").exit_code == 0
    made = eif(system, "index create other --model tiny --manifest train.jsonl --space penultimate --wait")
    assert "other is ready: 30 samples of size 6" in made.err
    assert eif(system, "index delete other").out == "deleted other\n"
    assert eif(system, "index get other").exit_code == 4


def test_embed_and_search(system: System, index: str) -> None:
    image = "train/0000.png"
    by_file, by_uri = jsonl(eif(system, f"embed --model tiny {image} {system.uri(image)}"))
    assert by_file["embedding"] == by_uri["embedding"]
    vector = json.dumps(by_file["embedding"])
    found = {
        kind: jsonl(eif(system, f"search {index} {query} --neighbors 3 --format jsonl", stdin=vector))
        for kind, query in (("image", f"--image {image}"), ("vector", "--vector -"), ("id", "--id train-0000"))
    }
    assert found["image"][0]["sample_id"] == "train-0000"
    assert [row["sample_id"] for row in found["image"]] == [row["sample_id"] for row in found["vector"]]
    assert [row["sample_id"] for row in found["id"]][:2] == [row["sample_id"] for row in found["image"][1:]]
    assert eif(system, f"embed --model tiny {image} --format table").out.splitlines()[0].split() == [
        "image",
        "dim",
        "embedding",
    ]


def test_info(system: System) -> None:
    info = json.loads(eif(system, "info --json").out)
    assert "cpu" in info["influence"]["devices"]
    assert info["influence"]["default_output_uri_prefix"] == f"file://{system.data}/results"
    assert "CPUExecutionProvider" in info["embedding"]["available_providers"]


def test_model_check_passes_arguments_and_exit_code_on(system: System) -> None:
    good = eif(system, "model check model --json")
    assert (good.exit_code, json.loads(good.out)["usable"]) == (0, True)
    bad = eif(system, "model check train")
    assert bad.exit_code == 1


def test_what_the_server_refuses_has_a_reason(system: System, tmp_path: Path, rank_job: str) -> None:
    outside = eif(system, f"rank --model {tmp_path} --train train.jsonl --test test.jsonl")
    assert outside.exit_code == 1
    assert "URI_NOT_ALLOWED" in outside.err
    assert "--file-root" in outside.err
    missing = eif(system, f"rank --model {system.uri('nothing')} --train train.jsonl --test test.jsonl")
    assert (missing.exit_code, "OBJECT_NOT_FOUND" in missing.err) == (4, True), missing.err
    query = eif(system, f"stream {rank_job} --query pair:x:y")
    assert (query.exit_code, query.out) == (4, "")
    assert "QUERY_NOT_FOUND" in query.err
    taken = eif(system, f"rank --model model --train train.jsonl --test test.jsonl --id {rank_job.rpartition('/')[2]}")
    assert (taken.exit_code, "JOB_ALREADY_EXISTS" in taken.err) == (1, True)
