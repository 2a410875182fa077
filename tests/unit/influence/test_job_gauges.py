from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from prometheus_client import CollectorRegistry

from services.common.errors import ServiceError
from services.influence import job_gauges
from services.influence.clock import now
from services.influence.job import JobState
from services.influence.job_gauges import REFRESH_S, JobGauges
from services.influence.job_summary import JobSummary


class Table:
    """A job table that answers as a test says."""

    def __init__(self) -> None:
        self.asked = 0
        self.error: Exception | None = None
        self.go = asyncio.Event()
        self.go.set()

    async def summary(self) -> JobSummary:
        self.asked += 1
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return JobSummary(
            counts={(JobState.PENDING, "rank"): 2, (JobState.RUNNING, "audit"): self.asked},
            waiting_since=now() - timedelta(seconds=100),
        )


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def table() -> Table:
    return Table()


def running_audits(registry: CollectorRegistry) -> float | None:
    return registry.get_sample_value("eif_jobs", {"state": "running", "kind": "audit"})


async def test_the_table_is_asked_once_in_a_while_however_often_it_is_scraped(table: Table) -> None:
    registry, clock = CollectorRegistry(), Clock()
    gauges = JobGauges(registry, table.summary, clock=clock)
    assert running_audits(registry) is None  # it was not asked yet
    for _ in range(5):
        assert await gauges.refresh() is None
    await asyncio.gather(*(gauges.refresh() for _ in range(5)))
    assert table.asked == 1
    clock.now += REFRESH_S
    await asyncio.gather(*(gauges.refresh() for _ in range(5)))
    assert table.asked == 2
    assert running_audits(registry) == 2
    assert registry.get_sample_value("eif_jobs", {"state": "failed", "kind": "relabel"}) == 0
    assert registry.get_sample_value("eif_queue_waiting_jobs") == 2
    assert registry.get_sample_value("eif_queue_oldest_waiting_seconds") == pytest.approx(100, abs=20)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            ServiceError("JOB_TABLE_UNAVAILABLE", "password=hunter2"),
            "the job table cannot be used (JOB_TABLE_UNAVAILABLE)",
        ),
        (RuntimeError("hunter2"), "the job table cannot be used (INTERNAL)"),
    ],
)
async def test_a_table_that_is_away_is_told_without_details_and_has_no_figures(
    error: Exception, told: str, table: Table
) -> None:
    registry, clock = CollectorRegistry(), Clock()
    gauges = JobGauges(registry, table.summary, clock=clock)
    await gauges.refresh()
    assert registry.get_sample_value("eif_job_table_up") == 1
    table.error = error
    clock.now += REFRESH_S
    assert await gauges.refresh() == told
    assert registry.get_sample_value("eif_job_table_up") == 0
    assert running_audits(registry) is None
    table.error = None
    clock.now += REFRESH_S
    assert await gauges.refresh() is None
    assert running_audits(registry) == 3


async def test_a_table_that_does_not_answer_holds_nobody_and_is_asked_once(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_gauges, "PATIENCE_S", 0.05)
    gauges = JobGauges(CollectorRegistry(), table.summary)
    table.go.clear()
    for _ in range(3):
        assert await gauges.refresh() == "the job table has not answered for 0.05 s"
    assert table.asked == 1
    table.go.set()
    monkeypatch.setattr(job_gauges, "PATIENCE_S", 10.0)
    assert await gauges.refresh() is None
