"""The parts of the influence service, put together."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from services.common.errors import ServiceError
from services.common.liveness import ThreadWatch
from services.common.observability import Observability
from services.common.ops import OpsServer
from services.common.probes import Lifecycle, probes
from services.common.settings import StorageSettings
from services.common.storage.base import ObjectStore
from services.influence.admission import Admission
from services.influence.board import Board
from services.influence.device_locks import DeviceLocks
from services.influence.gate.findings import AuditFindings
from services.influence.gate.service import GateService
from services.influence.job_files import JobFiles
from services.influence.job_gauges import JobGauges
from services.influence.jobs import JobService
from services.influence.ledger import Ledger
from services.influence.limits import JobLimits
from services.influence.local_runner import WORKER, LocalRunner
from services.influence.metrics import InfluenceMetrics
from services.influence.observed_runner import observed
from services.influence.open_job_store import SETTING as DATABASE_URL
from services.influence.open_job_store import open_job_store
from services.influence.result_service import ResultService
from services.influence.results import Results
from services.influence.retention import Retention
from services.influence.runner import JobRunner
from services.influence.scheduler import Scheduler
from services.influence.server_id import server_id
from services.influence.server_info import InfoService
from services.influence.servicer import InfluenceServicer
from services.influence.settings import InfluenceSettings
from services.influence.table_cache import TableCache

_KEPT_FROM_JOBS = {DATABASE_URL, "PGPASSWORD"}
"""Job processes read files of strangers, and have no use for the job table."""


class InfluenceApp:
    """One influence service.

    Args:
        settings: Its settings. Its state folder is held by the caller, see `hold_state_dir`.
        store: The object store.
        runner: Runs job processes.
        uri_schemes: What GetServerInfo says of the store.
        observability: Takes what is measured and traced.
    """

    def __init__(
        self,
        settings: InfluenceSettings,
        *,
        store: ObjectStore,
        runner: JobRunner,
        uri_schemes: tuple[str, ...],
        observability: Observability | None = None,
    ) -> None:
        self.stopping = asyncio.Event()
        self.observability = observability or Observability("influence")
        metrics = InfluenceMetrics(self.observability.registry)
        store = self.observability.metered(store)
        self._retaining: asyncio.Task[None] | None = None
        self._board = Board()
        self._ledger = Ledger(open_job_store(settings.database_url, settings.state_dir), self._board, metrics)
        self._gauges = JobGauges(self.observability.registry, self._ledger.summary)
        tables = _cache(settings, store)
        metrics.show_table_cache(lambda: tables.size)
        results = Results(tables)
        self._scheduler = Scheduler(
            ledger=self._ledger,
            store=store,
            runner=observed(runner, metrics, self.observability),
            state_dir=settings.state_dir,
            owner=server_id(settings.state_dir),
            quotas=settings.quotas,
        )
        jobs = self._job_service(settings, store, results)
        self._retention = Retention(
            ledger=self._ledger, delete=jobs.remove, state_dir=settings.state_dir, ttl=settings.job_ttl
        )
        self.servicer = InfluenceServicer(
            jobs=jobs,
            results=ResultService(ledger=self._ledger, results=results, stopping=self.stopping),
            files=JobFiles(ledger=self._ledger, store=store, stopping=self.stopping),
            gate=GateService(ledger=self._ledger, findings=AuditFindings(tables)),
            info=InfoService(settings, uri_schemes=uri_schemes),
        )

    def ops(self, lifecycle: Lifecycle) -> OpsServer:
        """Answers probes and scrapes."""
        threads = ThreadWatch(self._ledger.threads, "the job table")
        checks = probes(lifecycle, live={"job_table_threads": threads.check}, ready={"job_table": self._gauges.refresh})
        return OpsServer(probes=checks, metrics=self._exposition)

    async def _exposition(self) -> bytes:
        await self._gauges.refresh()
        return await self.observability.exposition()

    async def start(self) -> None:
        """Settle what an earlier server has left, and run what waits."""
        await self._scheduler.start()
        self._retaining = asyncio.create_task(self._retention.run())

    async def drain(self) -> None:
        """End watches and job processes; the next server goes on with their jobs."""
        self._board.close()
        if self._retaining is not None:
            self._retaining.cancel()
        await self._scheduler.stop()

    def close(self) -> None:
        """Let go of the job table."""
        self._ledger.close()

    def _job_service(self, settings: InfluenceSettings, store: ObjectStore, results: Results) -> JobService:
        admission = Admission(
            ledger=self._ledger,
            store=store,
            results=results,
            output_uri_prefix=settings.output_uri_prefix,
            has_embedding_service=settings.embedding_target is not None,
        )
        return JobService(
            ledger=self._ledger,
            admission=admission,
            scheduler=self._scheduler,
            store=store,
            results=results,
            state_dir=settings.state_dir,
            quotas=settings.quotas,
            heartbeat_s=settings.heartbeat_s,
            ttl=settings.job_ttl,
        )


def local_runner(
    settings: InfluenceSettings,
    storage: StorageSettings,
    environ: Mapping[str, str],
    *,
    command: Sequence[str] = WORKER,
) -> LocalRunner:
    """Runs jobs on this machine, with the settings of this server."""
    secrets = (storage.s3_access_key, storage.s3_secret_key, storage.s3_session_token)
    told = [secret if isinstance(secret, str) else secret.get_secret_value() for secret in secrets if secret]
    budget = settings.max_job_memory_bytes  # what cannot fit is refused with an estimate, before it is tried
    return LocalRunner(
        environ={
            **({} if budget is None else {"EIF_INFLUENCE_MEMORY_BUDGET_BYTES": str(budget)}),
            **{name: value for name, value in environ.items() if name not in _KEPT_FROM_JOBS},
            **storage.to_environ(),
            **settings.job_environ(),
            "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1",
        },
        secrets=told,
        command=command,
        grace_s=settings.cancel_grace_s,
        limits=JobLimits(
            memory_bytes=settings.max_job_memory_bytes, time_s=settings.job_time_limit_s, stall_s=settings.job_stall_s
        ),
        devices=DeviceLocks(settings.device_lock_dir),
    )


def check_prefixes(settings: InfluenceSettings, storage: StorageSettings) -> None:
    """Refuse to start with a place for results that the store is not set up for. Raises ARGUMENT_INVALID."""
    for name in ("output_uri_prefix", "cache_uri_prefix"):
        uri: str | None = getattr(settings, name)
        if uri is not None and uri.partition("://")[0] not in storage.schemes:
            how = "EIF_STORAGE_S3_ENDPOINT" if uri.startswith("s3:") else "EIF_STORAGE_FILE_ROOTS"
            raise ServiceError("ARGUMENT_INVALID", f"{name} is {uri}, but that scheme is off: set {how}", field=name)


def _cache(settings: InfluenceSettings, store: ObjectStore) -> TableCache:
    return TableCache(
        store,
        settings.state_dir / "results",
        max_bytes=settings.result_cache_bytes,
        max_table_bytes=settings.max_table_bytes,
    )
