"""What the influence service measures of its jobs. docs/operations.md says what each means and what to do about it."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.common.errors import STATUS_BY_REASON
from services.influence.bounded_names import BoundedNames
from services.influence.job import Job

JOB_BUCKETS = (1, 2.5, 5, 10, 30, 60, 150, 300, 600, 1800, 3600, 2 * 3600, 6 * 3600, 24 * 3600)
STAGE_BUCKETS = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 150, 300, 600, 1800, 3600, 6 * 3600)

KINDS = ("rank", "relabel", "audit", "explain")
OUTCOMES = ("succeeded", "failed", "cancelled")
ATTEMPT_OUTCOMES = (*OUTCOMES, "stopped", "limit_exceeded", "crashed")
SHARD_OUTCOMES = ("succeeded", "failed", "retried", "skipped")


class JobMetrics:
    """Jobs, their attempts and their stages. Used from one event loop."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._duration = Histogram(
            "eif_job_duration_seconds",
            "From the start of its last attempt to the end of a job that ran.",
            ["kind", "outcome"],
            buckets=JOB_BUCKETS,
            registry=registry,
        )
        self._failures = Counter(
            "eif_job_failures_total", "Jobs that failed, by reason.", ["kind", "reason"], registry=registry
        )
        self._stages = Histogram(
            "eif_job_stage_seconds", "Time in a stage.", ["kind", "stage"], buckets=STAGE_BUCKETS, registry=registry
        )
        self._attempts = Counter("eif_job_attempts_total", "Job processes that ended.", ["outcome"], registry=registry)
        self._stage_names = BoundedNames()
        for outcome in ATTEMPT_OUTCOMES:
            self._attempts.labels(outcome)
        for kind in KINDS:
            for outcome in OUTCOMES:
                self._duration.labels(kind, outcome)

    def job_changed(self, job: Job) -> None:
        """A job was changed by this server, which nobody else counts."""
        if not job.state.ended:
            return
        if job.start_time is not None and job.end_time is not None:
            seconds = (job.end_time - job.start_time).total_seconds()
            self._duration.labels(job.spec.kind, job.state.value).observe(max(seconds, 0.0))
        if job.error is not None and job.state.value == "failed":
            reason = job.error.reason if job.error.reason in STATUS_BY_REASON else "INTERNAL"
            self._failures.labels(job.spec.kind, reason).inc()

    def attempt_ended(self, outcome: str) -> None:
        """A job process has ended: one of ATTEMPT_OUTCOMES."""
        self._attempts.labels(outcome).inc()

    def stage_ended(self, kind: str, stage: str, seconds: float) -> None:
        """A stage of a job is over; its name comes from the job process."""
        self._stages.labels(kind, self._stage_names.label(stage)).observe(seconds)


class WorkMetrics:
    """What job processes have done. Used from one event loop."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._samples = Counter(
            "eif_samples_processed_total", "Samples whose features jobs have got.", registry=registry
        )
        self._hits = Counter("eif_feature_cache_hits_total", "Features that were known before.", registry=registry)
        self._misses = Counter("eif_feature_cache_misses_total", "Features that were computed.", registry=registry)

    def add(self, *, hits: int, misses: int) -> None:
        """Samples since the job process was last heard of, by where their features came from."""
        self._hits.inc(hits)
        self._misses.inc(misses)
        self._samples.inc(hits + misses)


class LeaseMetrics:
    """Leases of jobs, for several servers on one job table."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._expired = Counter(
            "eif_lease_expired_total", "Jobs taken over from a server whose lease had expired.", registry=registry
        )
        self._stale = Counter(
            "eif_stale_commit_rejected_total",
            "Changes of a job that were refused because another server holds it by now.",
            registry=registry,
        )

    def lease_expired(self) -> None:
        """This server took a job over from one that let its lease expire."""
        self._expired.inc()

    def stale_commit_rejected(self) -> None:
        """What a server wanted to store of a job came too late: the job is another's."""
        self._stale.inc()


class ShardMetrics:
    """Shards of running jobs, where jobs are cut into shards."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._pending = Gauge("eif_shards_pending", "Shards of running jobs that wait.", registry=registry)
        self._running = Gauge("eif_shards_running", "Shards of running jobs in work.", registry=registry)
        self._attempts = Counter(
            "eif_shard_attempts_total",
            "Attempts of shards: succeeded, failed, retried, or skipped because the result was there.",
            ["outcome"],
            registry=registry,
        )
        for outcome in SHARD_OUTCOMES:
            self._attempts.labels(outcome)

    def set_shards(self, *, pending: int, running: int) -> None:
        """How many there are now, over all jobs of this server."""
        self._pending.set(pending)
        self._running.set(running)

    def attempts(self, outcome: str, count: int = 1) -> None:
        """Attempts of shards have ended: one of SHARD_OUTCOMES."""
        self._attempts.labels(outcome).inc(count)


class InfluenceMetrics:
    """All of them, for one server."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self.jobs = JobMetrics(registry)
        self.work = WorkMetrics(registry)
        self.leases = LeaseMetrics(registry)
        self.shards = ShardMetrics(registry)

    def show_table_cache(self, size: Callable[[], float]) -> None:
        """Show the bytes of the result tables that are kept on this machine."""
        Gauge(
            "eif_table_cache_bytes", "Copies of result tables on this machine.", registry=self._registry
        ).set_function(size)
