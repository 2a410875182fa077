"""The client beside the oldest packages that it allows: pipelines that pin protobuf 6 can install it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.cli import environment
from tests.system import running_system

REPO = Path(__file__).resolve().parents[2]
OLDEST = (
    "grpcio==1.78.0",
    "grpcio-status==1.78.0",
    "protobuf==6.31.1",
    "click==8.1.8",
    "rich==13.9.4",
    "google-crc32c==1.7.1",
)
PROGRAM = """
import json, sys
import google.protobuf, grpc
from services.client.embedding import EmbeddingClient
from services.client.errors import NotFound
from services.client.influence import InfluenceClient
influence, embedding, model, train, test = sys.argv[1:]
with InfluenceClient(influence) as client, EmbeddingClient(embedding) as other:
    job = client.wait(client.rank(model=model, train=train, test=test))
    try:
        client.get_job("nope")
    except NotFound as error:
        reason = error.reason
    ranks = [row.rank for row in client.stream_ranked_samples(job, chunk_rows=7)]
    print(json.dumps({"grpc": grpc.__version__, "protobuf": google.protobuf.__version__, "ranks": ranks,
                      "reason": reason, "provider": other.server_info().execution_provider}))
"""


@pytest.mark.slow
def test_the_client_runs_on_the_oldest_packages_it_allows(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", *OLDEST, "googleapis-common-protos"]
    subprocess.run([python, *install], check=True)
    path = {"PYTHONPATH": f"{REPO}:{REPO / 'proto' / 'gen'}", "PYTHONDONTWRITEBYTECODE": "1"}
    with running_system(tmp_path) as system:
        uris = [system.uri(name) for name in ("model", "train.jsonl", "test.jsonl")]
        client = subprocess.run(
            [python, "-W", "error", "-c", PROGRAM, system.influence, system.embedding, *uris],
            env=environment(**path),
            capture_output=True,
            text=True,
            check=False,
        )
        cli = subprocess.run(
            [python, "-W", "error", "-m", "services.client", "jobs", "list", "--format", "jsonl"],
            env=environment(**path, **system.variables),
            capture_output=True,
            text=True,
            check=False,
        )
    assert client.returncode == 0, client.stderr
    found = json.loads(client.stdout)
    assert (found["grpc"], found["protobuf"]) == ("1.78.0", "6.31.1")
    assert (found["ranks"], found["reason"]) == (list(range(1, 31)), "JOB_NOT_FOUND")
    assert found["provider"].endswith("ExecutionProvider")
    assert (cli.returncode, cli.stderr) == (0, "")
    assert json.loads(cli.stdout.splitlines()[0])["state"] == "SUCCEEDED"


def test_the_oldest_packages_are_those_of_the_project() -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    lowest = {}
    for requirement in project["dependencies"]:
        match = re.match(r"([A-Za-z0-9-]+)>=([0-9.]+)", requirement)
        assert match is not None, requirement
        lowest[match.group(1)] = match.group(2)
    for pin in OLDEST:
        name, _, version = pin.partition("==")
        assert version == lowest[name] or version.startswith(f"{lowest[name]}."), pin
