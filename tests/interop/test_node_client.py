"""A client that is not ours: Node.js, from proto/ alone. Skipped where node, npm or their registry is not there."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from services.client.influence import InfluenceClient
from tests.cli import environment
from tests.system import running_system

HERE = Path(__file__).resolve().parent
PROTO = HERE.parents[1] / "proto"
FILES = ("package.json", "package-lock.json", ".npmrc", "client.mjs", "crc32c.mjs")
UNREACHABLE = ("ENOTFOUND", "ECONNREFUSED", "ETIMEDOUT", "EAI_AGAIN", "ENETUNREACH", "ENOTCACHED")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script with its packages, in a folder of its own."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip(
            "THE FOREIGN CLIENT WAS NOT TESTED: node and npm are not installed (Debian: apt install nodejs npm)"
        )
    folder = tmp_path_factory.mktemp("node")
    for name in FILES:
        shutil.copy(HERE / name, folder / name)
    install = ["npm", "ci", "--ignore-scripts", "--no-progress", "--prefer-offline"]
    ended = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=240, check=False)
    if ended.returncode and any(code in ended.stderr for code in UNREACHABLE):
        pytest.skip(f"THE FOREIGN CLIENT WAS NOT TESTED: its packages cannot be fetched: {ended.stderr[-300:]}")
    assert ended.returncode == 0, ended.stderr
    return folder / "client.mjs"


def test_a_foreign_client_submits_watches_and_streams(program: Path, tmp_path: Path) -> None:
    with running_system(tmp_path) as system:
        uris = [system.uri(name) for name in ("model", "train.jsonl", "test.jsonl")]
        ended = subprocess.run(
            ["node", str(program), str(PROTO), system.influence, system.embedding, *uris],
            cwd=program.parent,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        found = json.loads(ended.stdout)
        with InfluenceClient(system.influence) as client:
            ours = list(client.stream_ranked_samples(found["job"]["name"]))
    assert found["job"]["name"].startswith("projects/node/influenceJobs/")
    assert (found["job"]["displayName"], found["job"]["labels"]) == ("from node", {"language": "javascript"})
    assert found["job"]["spec"] == "rank"
    assert found["sameJob"] is True
    assert found["states"][-1] == "JOB_STATE_SUCCEEDED"
    assert set(found["tables"]) == {"ranking", "pairs", "quarantine"}
    assert found["ranks"] == [1, 8, 15, 22, 29]
    assert found["checksums"] == [True] * 5
    assert found["sampleIds"] == [row.sample_id for row in ours]
    assert found["scores"] == [row.score for row in ours]
    assert 1 <= len(found["pairs"]) <= 3
    assert found["pairs"][0]["kind"] == "confusion"
    assert found["refusal"] == {"code": "NOT_FOUND", "hasReason": True}
    assert found["provider"].endswith("ExecutionProvider")


def test_the_lock_names_no_registry() -> None:
    lock = json.loads((HERE / "package-lock.json").read_text())
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert packages
    assert all("resolved" not in entry and entry["integrity"].startswith("sha512-") for entry in packages.values())
