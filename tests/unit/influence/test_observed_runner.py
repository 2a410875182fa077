from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from services.common.metrics import StorageMetrics
from services.common.tracing import NoTracing
from services.influence.bounded_names import BoundedNames
from services.influence.job_folder import prepare_folder, read_request
from services.influence.limits import Breach
from services.influence.messages import (
    CancelledMessage,
    FailedMessage,
    Message,
    ProgressMessage,
    StorageRequests,
    SucceededMessage,
    TotalsMessage,
)
from services.influence.metrics import ATTEMPT_OUTCOMES, InfluenceMetrics
from services.influence.observed_runner import ObservedRunner, outcome_of
from services.influence.run_totals import RunTotals
from services.influence.runner import ExitReport, OnMessage
from services.influence.stage_clock import StageClock
from tests.jobs import make_job
from tests.waiting import eventually

SUCCEEDED = ExitReport(last=SucceededMessage(manifest_uri="s3://b/M", manifest_sha256="0" * 64), exit_code=0)


def progress(stage: str) -> ProgressMessage:
    return ProgressMessage(stage=stage, done=0, total=1, unit="x", stages_done=0, stages_total=2)


class Runner:
    """A JobRunner that says what a test wants to hear."""

    def __init__(self, *messages: Message, report: ExitReport = SUCCEEDED) -> None:
        self.messages, self.report = messages, report
        self.calls: list[str] = []
        self.traceparents: list[str | None] = []
        self.hold: asyncio.Event | None = None

    async def run(self, folder: Path, on_message: OnMessage) -> ExitReport:
        self.calls.append("run")
        self.traceparents.append(read_request(folder).traceparent)
        for message in self.messages:
            on_message(message)
        if self.hold is not None:
            await self.hold.wait()
        return self.report

    def cancel(self, folder: Path) -> None:  # noqa: ARG002  there is one
        self.calls.append("cancel")

    def leave(self, folder: Path) -> None:  # noqa: ARG002  there is one
        self.calls.append("leave")

    async def reap(self, folder: Path) -> None:  # noqa: ARG002  there is one
        self.calls.append("reap")


class World:
    """An observed runner, and what it counts."""

    def __init__(self, runner: Runner, folder: Path) -> None:
        self.registry = CollectorRegistry()
        metrics = InfluenceMetrics(self.registry)
        totals = RunTotals(metrics, StorageMetrics(self.registry))
        self.runner = ObservedRunner(runner, metrics=metrics, totals=totals, tracing=NoTracing())
        self.folder = prepare_folder(folder, make_job(traceparent=f"00-{'a' * 32}-{'b' * 16}-01"))
        self.heard: list[Message] = []

    async def run(self) -> ExitReport:
        return await self.runner.run(self.folder, self.heard.append)

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


async def test_progress_is_timed_totals_are_taken_and_the_rest_handed_on(tmp_path: Path) -> None:
    last = SUCCEEDED.last
    assert last is not None
    world = World(Runner(progress("inputs"), TotalsMessage(cache_hits=3), progress("features"), last), tmp_path)
    assert await world.run() is SUCCEEDED
    assert world.heard == [progress("inputs"), progress("features"), last]
    for stage in ("inputs", "features"):
        assert world.value("eif_job_stage_seconds_count", kind="rank", stage=stage) == 1
    assert world.value("eif_job_attempts_total", outcome="succeeded") == 1
    assert world.value("eif_feature_cache_hits_total") == 3


async def test_a_cancel_while_the_start_is_prepared_is_not_lost(tmp_path: Path) -> None:
    for verb, outcome in (("cancel", "cancelled"), ("leave", "stopped")):
        runner = Runner()
        world = World(runner, tmp_path / verb)
        running = asyncio.create_task(world.run())
        await asyncio.sleep(0)
        getattr(world.runner, verb)(world.folder)
        assert (await running).asked_to_stop
        assert runner.calls == []
        assert world.value("eif_job_attempts_total", outcome=outcome) == 1


async def test_a_cancel_of_what_runs_goes_through(tmp_path: Path) -> None:
    runner = Runner(report=ExitReport(last=CancelledMessage(), exit_code=0, asked_to_stop=True))
    runner.hold = asyncio.Event()
    world = World(runner, tmp_path)
    running = asyncio.create_task(world.run())
    await eventually(lambda: "run" in runner.calls)
    world.runner.cancel(world.folder)
    assert runner.calls == ["run", "cancel"]
    runner.hold.set()
    await running
    assert world.value("eif_job_attempts_total", outcome="cancelled") == 1


async def test_a_run_that_is_broken_off_is_counted_as_stopped(tmp_path: Path) -> None:
    runner = Runner()
    runner.hold = asyncio.Event()
    world = World(runner, tmp_path)
    running = asyncio.create_task(world.run())
    await eventually(lambda: "run" in runner.calls)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert world.value("eif_job_attempts_total", outcome="stopped") == 1


async def test_without_traces_the_place_of_the_caller_is_handed_on(tmp_path: Path) -> None:
    runner = Runner()
    await World(runner, tmp_path).run()
    assert runner.traceparents == [f"00-{'a' * 32}-{'b' * 16}-01"]


@pytest.mark.parametrize(
    ("report", "left", "outcome"),
    [
        (SUCCEEDED, False, "succeeded"),
        (ExitReport(last=FailedMessage(reason="INTERNAL", message="")), False, "failed"),
        (ExitReport(last=CancelledMessage(), asked_to_stop=True), False, "cancelled"),
        (ExitReport(signal="SIGKILL", asked_to_stop=True), True, "stopped"),
        (ExitReport(signal="SIGKILL"), False, "crashed"),
        (ExitReport(last=CancelledMessage()), False, "crashed"),
        (ExitReport(exit_code=3), False, "crashed"),
        (ExitReport(signal="SIGKILL", breach=Breach(reason="OUT_OF_MEMORY", message="")), False, "limit_exceeded"),
        (ExitReport(breach=Breach(reason="WORKER_CRASHED", message="", again=True)), False, "crashed"),
        (ExitReport(breach=Breach(reason="CLUSTER_UNAVAILABLE", message="", again=True)), False, "crashed"),
    ],
)
def test_how_an_attempt_ended(report: ExitReport, left: bool, outcome: str) -> None:
    assert outcome_of(report, left=left) == outcome
    assert outcome in ATTEMPT_OUTCOMES


def test_totals_of_several_runs_add_up_and_each_counts_once() -> None:
    registry = CollectorRegistry()
    totals = RunTotals(InfluenceMetrics(registry), StorageMetrics(registry))

    def tell(folder: str, count: int, *, shards: int = 0) -> None:
        requests = (StorageRequests(op="read", code="OK", count=count),)
        message = TotalsMessage(
            cache_misses=count, storage_requests=requests, storage_bytes={"read": 10 * count}, shards_pending=shards
        )
        totals.update(Path(folder), message)

    tell("a", 1)
    tell("b", 5, shards=2)
    tell("a", 4, shards=3)
    tell("a", 2)  # a process that counts backwards is not believed
    assert registry.get_sample_value("eif_feature_cache_misses_total") == 9
    read = {"process": "job", "op": "read"}
    assert registry.get_sample_value("eif_storage_requests_total", read | {"code": "OK"}) == 9
    assert registry.get_sample_value("eif_storage_bytes_total", read) == 90
    assert registry.get_sample_value("eif_shards_pending") == 2
    totals.forget(Path("b"))
    assert registry.get_sample_value("eif_shards_pending") == 0


def test_stages_end_when_the_next_begins_or_the_process_ends() -> None:
    ended: list[tuple[str, float]] = []
    times = iter([0.0, 2.0, 2.0, 7.0])
    clock = StageClock(lambda stage, seconds: ended.append((stage, seconds)), clock=lambda: next(times))
    for stage in ("inputs", "inputs", "features"):
        clock.progress(progress(stage))
    clock.stop()
    clock.stop()
    assert ended == [("inputs", 2.0), ("features", 5.0)]


def test_names_of_others_are_few_and_plain() -> None:
    names = BoundedNames(most=2)
    assert [names.label(name) for name in ("a", "B", "a b", "", "x" * 33, "b", "c", "a")] == [
        "a",
        *["other"] * 4,
        "b",
        "other",
        "a",
    ]
