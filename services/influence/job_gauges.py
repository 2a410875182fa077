"""How many jobs there are, as the job table says: asked at most every few seconds, whatever scrapes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry

from services.common.errors import ServiceError
from services.influence.clock import now
from services.influence.job import JobState
from services.influence.job_summary import JobSummary
from services.influence.metrics import KINDS

REFRESH_S = 5.0
PATIENCE_S = 2.0
"""For the job table to answer a probe or a scrape."""


logger = logging.getLogger(__name__)


class JobGauges(Collector):
    """Shows the summary of the job table, and tells whether the table can be reached.

    Args:
        registry: Of the server.
        read: Asks the job table.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        read: Callable[[], Awaitable[JobSummary]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read, self._clock = read, clock
        self._summary: JobSummary | None = None
        self._fault: str | None = "the job table has not been asked yet"
        self._read_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None
        registry.register(self)

    async def refresh(self) -> str | None:
        """Ask the job table unless that was done just now; why it could not be asked, if so."""
        if self._reading is None and self._clock() - self._read_at < REFRESH_S:
            return self._fault
        if self._reading is None:
            self._reading = asyncio.create_task(self._ask())
        done, _ = await asyncio.wait({self._reading}, timeout=PATIENCE_S)
        return self._fault if done else f"the job table has not answered for {PATIENCE_S:g} s"

    def describe(self) -> Iterator[GaugeMetricFamily]:
        return iter(_families())

    def collect(self) -> Iterator[GaugeMetricFamily]:
        jobs, waiting, oldest, reachable = _families()
        reachable.add_metric([], float(self._fault is None))
        summary = self._summary
        if summary is not None and self._fault is None:  # no figures rather than old ones
            for state in JobState:
                for kind in KINDS:
                    jobs.add_metric([state.value, kind], summary.counts.get((state, kind), 0))
            waiting.add_metric([], sum(n for (state, _), n in summary.counts.items() if state is JobState.PENDING))
            since = summary.waiting_since
            oldest.add_metric([], max((now() - since).total_seconds(), 0.0) if since else 0.0)
        yield from (jobs, waiting, oldest, reachable)

    async def _ask(self) -> None:
        try:
            self._summary, self._fault = await self._read(), None
        except ServiceError as error:
            self._fault = f"the job table cannot be used ({error.reason})"
        except Exception:
            logger.exception("the job table could not be asked")
            self._fault = "the job table cannot be used (INTERNAL)"
        finally:
            self._read_at, self._reading = self._clock(), None


def _families() -> tuple[GaugeMetricFamily, GaugeMetricFamily, GaugeMetricFamily, GaugeMetricFamily]:
    return (
        GaugeMetricFamily("eif_jobs", "Jobs in the job table.", labels=["state", "kind"]),
        GaugeMetricFamily("eif_queue_waiting_jobs", "Jobs that wait for their turn."),
        GaugeMetricFamily("eif_queue_oldest_waiting_seconds", "Since the first job that waits was created."),
        GaugeMetricFamily("eif_job_table_up", "Whether the job table answered when it was last asked."),
    )
