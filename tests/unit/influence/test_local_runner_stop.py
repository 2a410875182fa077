"""A stop that comes while a process is about to be started is not lost."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from services.influence.device_locks import DeviceLocks
from services.influence.local_runner import LocalRunner
from services.influence.runner import ExitReport
from tests.conftest import REPO

PROGRAM = (sys.executable, str(REPO / "tests" / "job_program.py"))


async def test_a_stop_while_devices_are_looked_for(tmp_path: Path) -> None:
    looking, found = asyncio.Event(), asyncio.Event()

    async def find() -> tuple[str, ...]:
        looking.set()
        await found.wait()
        return ()

    request = {
        "name": "projects/p/influenceJobs/j",
        "uid": "u",
        "attempt": 1,
        "output_uri_prefix": "s3://b/out",
        "spec": {
            "kind": "rank",
            **{name: {"uri": f"s3://b/{name}.csv"} for name in ("model", "train_manifest", "test_manifest")},
        },
    }
    (tmp_path / "job.json").write_text(json.dumps(request))
    (tmp_path / "script.json").write_text(json.dumps([{"do": "forever"}]))
    runner = LocalRunner(
        environ={**os.environ, "PYTHONPATH": str(REPO)},
        command=PROGRAM,
        devices=DeviceLocks(tmp_path / "devices", find=find),
    )
    running = asyncio.create_task(runner.run(tmp_path, lambda _: None))
    await asyncio.wait_for(looking.wait(), 20)
    runner.cancel(tmp_path)
    found.set()
    assert await asyncio.wait_for(running, 20) == ExitReport(asked_to_stop=True)
    assert not (tmp_path / "pid").exists()
