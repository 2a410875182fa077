"""What docs/security.md tells an operator to type, typed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli import environment
from tests.conftest import REPO

START_S = 60.0


def blocks(language: str) -> list[str]:
    text = (REPO / "docs" / "security.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def shell(script: str, folder: Path, **variables: str) -> str:
    """What a script prints; it must not fail."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environ = environment(PATH=path, PYTHONPATH=str(REPO), **variables)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def served(script: str, folder: Path) -> Iterator[str]:
    """The server of a script, on a free port of the loopback; its address."""
    ready = folder / "ready.json"
    exports, command = script.rstrip().rsplit("\n", 1)
    program = f"{exports}\nexec {command} --listen 127.0.0.1:0 --state-dir {folder}/state --ready-file {ready}"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            ["bash", "-euc", program],
            cwd=folder,
            env=environment(PATH=path, PYTHONPATH=str(REPO)),
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + START_S
        while not ready.exists():
            assert process.poll() is None, (folder / "server.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield str(json.loads(ready.read_text())["address"])
    finally:
        process.terminate()
        process.wait(30)


def test_the_guide_leads_to_a_server_that_knows_its_callers(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command, which is not installed")
    certificates, token, server, caller = blocks("sh")
    (policy,) = blocks("yaml")
    shell(certificates + token, tmp_path)
    (tmp_path / "access.yaml").write_text(policy)
    with served(server, tmp_path) as address:
        port = address.rpartition(":")[2]
        printed = shell(caller.replace("50051", port), tmp_path)
        assert f'"target": "localhost:{port}"' in printed
        without = caller.replace("EIF_CLIENT_TOKEN_FILE=nightly.token", "").replace("50051", port)
        refused = shell(f"{without.partition('eif info')[0]}\neif jobs list 2>&1 || test $? -eq 1", tmp_path)
        assert "CREDENTIALS_MISSING" in refused
    secret = (tmp_path / "nightly.token").read_text().strip()
    assert secret not in (tmp_path / "server.log").read_text()
