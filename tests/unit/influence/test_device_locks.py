"""One job a GPU, among the servers of a machine. The ids of the GPUs are made up; locks and processes are real."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from services.common.errors import ServiceError
from services.influence.device_locks import VISIBLE, DeviceLease, DeviceLocks
from services.influence.job_folder import JOB_JSON
from services.influence.local_runner import LocalRunner
from services.influence.runner import ExitReport
from services.influence.spec import Artifact, Device, JobRequest, RankSpec, RunOptions
from tests.conftest import REPO
from tests.waiting import eventually

PROGRAM = (sys.executable, str(REPO / "tests" / "job_program.py"))


async def two() -> tuple[str, ...]:
    return ("GPU-a", "GPU-b")


async def none() -> tuple[str, ...]:
    return ()


def servers(folder: Path, count: int) -> list[DeviceLocks]:
    return [DeviceLocks(folder / "locks", find=two) for _ in range(count)]


async def taken(locks: DeviceLocks, device: Device = Device.CUDA) -> DeviceLease:
    lease = await asyncio.wait_for(locks.acquire(device, unwanted=lambda: False), 10)
    assert lease is not None
    return lease


async def test_each_job_has_a_gpu_of_its_own_and_the_next_one_waits(tmp_path: Path) -> None:
    first, second, third = servers(tmp_path, 3)
    leases = [await taken(first), await taken(second, Device.AUTO)]
    assert [lease.environ for lease in leases] == [{VISIBLE: "GPU-a"}, {VISIBLE: "GPU-b"}]
    waiting = asyncio.create_task(taken(third))
    _, pending = await asyncio.wait([waiting], timeout=0.5)
    assert pending
    leases[1].close()
    assert (await waiting).environ == {VISIBLE: "GPU-b"}
    leases[0].close()
    waiting.result().close()


async def test_a_wait_ends_when_the_job_is_not_wanted_any_more(tmp_path: Path) -> None:
    first, second = servers(tmp_path, 2)
    leases = [await taken(first), await taken(first)]
    stop = asyncio.Event()
    waiting = asyncio.create_task(second.acquire(Device.CUDA, unwanted=stop.is_set))
    stop.set()
    assert await asyncio.wait_for(waiting, 10) is None
    for lease in leases:
        lease.close()


async def test_the_cpu_is_for_everybody_and_hides_the_gpus(tmp_path: Path) -> None:
    locks = DeviceLocks(tmp_path / "locks", find=two)
    for _ in range(3):
        assert await taken(locks, Device.CPU) == DeviceLease(environ={VISIBLE: ""})
    assert not (tmp_path / "locks").exists()


@pytest.mark.parametrize("device", [Device.AUTO, Device.CUDA])
async def test_without_a_gpu_there_is_nothing_to_wait_for(tmp_path: Path, device: Device) -> None:
    assert await taken(DeviceLocks(tmp_path / "locks", find=none), device) == DeviceLease()


async def test_a_lock_behind_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks" / "GPU-a.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ServiceError, match="DEVICE_LOCK_DIR"):
        await taken(servers(tmp_path, 1)[0])
    assert not (tmp_path / "elsewhere").exists()


async def test_other_users_may_use_the_locks(tmp_path: Path) -> None:
    lease = await taken(servers(tmp_path, 1)[0])
    assert (tmp_path / "locks").stat().st_mode & 0o7777 == 0o1777
    assert (tmp_path / "locks" / "GPU-a.lock").stat().st_mode & 0o777 == 0o666
    lease.close()


def job_folder(folder: Path, *steps: dict[str, object]) -> Path:
    """A job that wants a GPU, and whose process follows steps."""
    folder.mkdir(exist_ok=True)
    artifact = Artifact(uri="file:///none")
    spec = RankSpec(model=artifact, train_manifest=artifact, test_manifest=artifact, run=RunOptions(device=Device.CUDA))
    request = JobRequest(
        name="projects/p/influenceJobs/j", uid=folder.name, attempt=1, spec=spec, output_uri_prefix="file:///none"
    )
    (folder / JOB_JSON).write_text(request.model_dump_json())
    (folder / "script.json").write_text(json.dumps(steps))
    return folder


def runner(tmp_path: Path) -> LocalRunner:
    async def one() -> tuple[str, ...]:
        return ("GPU-a",)

    environ = {**os.environ, "PYTHONPATH": str(REPO)}
    return LocalRunner(environ=environ, command=PROGRAM, devices=DeviceLocks(tmp_path / "locks", find=one))


async def test_the_lock_lives_as_long_as_the_process(tmp_path: Path) -> None:
    started = tmp_path / "started"
    first = job_folder(
        tmp_path / "one",
        {"do": "environ", "name": VISIBLE},
        {"do": "touch", "path": str(started)},
        {"do": "forever"},
    )
    running = asyncio.create_task(runner(tmp_path).run(first, lambda _: None))
    await eventually(lambda: started.exists() and started.read_text().endswith("\n"))
    second = asyncio.create_task(
        runner(tmp_path).run(job_folder(tmp_path / "two", {"do": "exit", "code": 5}), lambda _: None)
    )
    _, pending = await asyncio.wait([second], timeout=0.7)
    assert pending
    assert not (tmp_path / "two" / "pid").exists()
    os.kill(int(started.read_text()), signal.SIGKILL)
    report = await running
    assert (report.signal, report.log_tail) == ("SIGKILL", f"{VISIBLE}=GPU-a")
    assert await asyncio.wait_for(second, 10) == ExitReport(exit_code=5)


async def test_a_job_that_waits_for_a_gpu_can_be_cancelled(tmp_path: Path) -> None:
    lease = await taken(DeviceLocks(tmp_path / "locks", find=two))
    waits = runner(tmp_path)
    folder = job_folder(tmp_path / "one", {"do": "forever"})
    running = asyncio.create_task(waits.run(folder, lambda _: None))
    await asyncio.sleep(0)
    waits.cancel(folder)
    assert await asyncio.wait_for(running, 10) == ExitReport(asked_to_stop=True)
    lease.close()
