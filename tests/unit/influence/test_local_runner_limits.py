"""What a job process may take: it is ended with a reason, and nothing of it stays."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from services.common.errors import ServiceError
from services.influence import limits as limits_module
from services.influence.limits import Breach, JobLimits
from services.influence.local_runner import LocalRunner
from services.influence.messages import CancelledMessage
from services.influence.runner import ExitReport
from tests.conftest import REPO
from tests.waiting import eventually

PROGRAM = (sys.executable, str(REPO / "tests" / "job_program.py"))
MIB = 1 << 20
LIMIT = 200 * MIB
FOREVER = {"do": "forever"}

make_runner = partial(
    LocalRunner, environ={**os.environ, "PYTHONPATH": str(REPO)}, command=PROGRAM, orphan_patience_s=1.0
)


async def run(folder: Path, *steps: dict[str, Any], limits: JobLimits, grace_s: float = 5.0) -> ExitReport:
    (folder / "script.json").write_text(json.dumps(steps))
    return await make_runner(limits=limits, grace_s=grace_s).run(folder, lambda _: None)


def reason_of(report: ExitReport) -> str:
    assert report.breach is not None, report
    return report.breach.reason


async def test_a_process_that_takes_too_much_memory_is_killed_and_says_how_much(tmp_path: Path) -> None:
    report = await run(
        tmp_path,
        {"do": "ignore_sigterm"},
        {"do": "take_memory", "count": 2 * LIMIT},
        FOREVER,
        limits=JobLimits(memory_bytes=LIMIT),
    )
    assert (reason_of(report), report.signal, report.asked_to_stop) == ("OUT_OF_MEMORY", "SIGKILL", False)
    assert report.breach is not None
    assert int(report.breach.metadata["used_bytes"]) > LIMIT
    assert report.breach.metadata["limit_bytes"] == str(LIMIT)
    assert f"(SIGKILL, OUT_OF_MEMORY: {report.breach.message})" in (tmp_path / "log.txt").read_text()


async def test_children_count_and_end_with_it(tmp_path: Path) -> None:
    started = tmp_path / "started"
    steps: list[dict[str, Any]] = [
        *[{"do": "take_memory", "count": int(0.6 * LIMIT), "child": True} for _ in range(2)],
        {"do": "touch", "path": str(started)},
        FOREVER,
    ]
    assert reason_of(await run(tmp_path, *steps, limits=JobLimits(memory_bytes=LIMIT))) == "OUT_OF_MEMORY"
    pid = int(started.read_text())
    await eventually(lambda: not [each for each in psutil.process_iter() if _session(each.pid) == pid])


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


async def test_pages_of_files_do_not_count(tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(2 * LIMIT)
    report = await run(
        tmp_path,
        {"do": "map_file", "path": str(large)},
        {"do": "count", "total": 2, "every_s": 0.3},
        {"do": "exit", "code": 3},
        limits=JobLimits(memory_bytes=LIMIT),
    )
    assert (report.breach, report.exit_code) == (None, 3)


async def test_a_kill_from_outside_is_told_apart(tmp_path: Path) -> None:
    limits = JobLimits(memory_bytes=LIMIT, time_s=60, stall_s=60)
    report = await run(tmp_path, {"do": "kill", "signal": signal.SIGKILL}, limits=limits)
    assert (report.breach, report.signal) == (None, "SIGKILL")


async def test_time_is_over(tmp_path: Path) -> None:
    report = await run(tmp_path, FOREVER, limits=JobLimits(time_s=1.0))
    assert (reason_of(report), report.last, report.exit_code) == ("TIME_LIMIT_EXCEEDED", CancelledMessage(), 0)
    assert report.breach is not None
    assert (report.breach.again, report.breach.metadata) == (False, {"limit_s": "1"})


async def test_time_is_over_for_one_that_does_not_listen(tmp_path: Path) -> None:
    report = await run(tmp_path, {"do": "ignore_sigterm"}, FOREVER, limits=JobLimits(time_s=1.0), grace_s=0.2)
    assert (reason_of(report), report.signal) == ("TIME_LIMIT_EXCEEDED", "SIGKILL")


async def test_a_process_that_gets_no_further_is_ended_and_may_be_tried_again(tmp_path: Path) -> None:
    says_the_same = [{"do": "progress", "done": 1, "total": 9}] * 3
    report = await run(tmp_path, *says_the_same, FOREVER, limits=JobLimits(stall_s=1.0))
    assert reason_of(report) == "JOB_STALLED"
    assert report.breach is not None
    assert report.breach.again


async def test_one_that_gets_further_is_left_alone(tmp_path: Path) -> None:
    steps = [{"do": "count", "total": 20, "every_s": 0.1}, {"do": "exit", "code": 4}]
    assert await run(tmp_path, *steps, limits=JobLimits(stall_s=1.0)) == ExitReport(exit_code=4)


async def test_a_cancel_comes_before_a_limit(tmp_path: Path) -> None:
    runner = make_runner(limits=JobLimits(time_s=1.0), grace_s=2.0)
    started = tmp_path / "started"
    steps = [{"do": "ignore_sigterm"}, {"do": "touch", "path": str(started)}, FOREVER]
    (tmp_path / "script.json").write_text(json.dumps(steps))
    running = asyncio.create_task(runner.run(tmp_path, lambda _: None))
    await eventually(started.exists)
    runner.cancel(tmp_path)
    assert await running == ExitReport(signal="SIGKILL", asked_to_stop=True)


async def test_the_kernel_ends_the_job_before_the_server(tmp_path: Path) -> None:
    started = tmp_path / "started"
    steps = [{"do": "touch", "path": str(started)}, FOREVER]
    (tmp_path / "script.json").write_text(json.dumps(steps))
    runner = make_runner()
    running = asyncio.create_task(runner.run(tmp_path, lambda _: None))
    await eventually(started.exists)
    score = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/oom_score_adj")
    await eventually(lambda: int(score.read_text()) > int(Path("/proc/self/oom_score_adj").read_text()))
    runner.cancel(tmp_path)
    await running


def test_a_system_that_cannot_measure_refuses_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits_module, "can_be_measured", lambda: False)
    assert JobLimits(time_s=1).memory_bytes is None
    with pytest.raises(ServiceError, match="max_job_memory_bytes") as caught:
        JobLimits(memory_bytes=1)
    assert caught.value.reason == "ARGUMENT_INVALID"


def test_a_breach_has_a_frozen_reason() -> None:
    for reason in ("OUT_OF_MEMORY", "TIME_LIMIT_EXCEEDED", "JOB_STALLED"):
        ServiceError(Breach(reason=reason, message="x").reason, "x")
