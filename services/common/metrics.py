"""What every server measures of itself, for Prometheus. A registry for each server, never the global one."""

from __future__ import annotations

import platform
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from eif_engine import __version__
from services.common.storage.metered import StorageCall

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

# A second series for each one, with the time of its birth, which nobody looks at.
disable_created_metrics()  # type: ignore[no-untyped-call]  # the package has types, but not for this


def new_registry(service: str) -> CollectorRegistry:
    """A registry with the metrics of this process and `eif_build_info`.

    Args:
        service: Name of the server, for example `influence`.
    """
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    build = Gauge("eif_build_info", "Always 1; what runs.", ["service", "version", "python"], registry=registry)
    build.labels(service, __version__, platform.python_version()).set(1)
    return registry


def exposition(registry: CollectorRegistry) -> bytes:
    """All metrics as text. Takes milliseconds: call it in a thread."""
    return generate_latest(registry)


class StorageMetrics:
    """Requests to the object store, by those who make them: this process (`server`), or job processes (`job`)."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "eif_storage_requests_total",
            "Requests to the object store; code is OK or the reason of the error.",
            ["process", "op", "code"],
            registry=registry,
        )
        self._bytes = Counter(
            "eif_storage_bytes_total", "Bytes read and written.", ["process", "op"], registry=registry
        )
        self._seconds = Counter(
            "eif_storage_seconds_total", "Time spent in requests.", ["process", "op"], registry=registry
        )

    def record(self, call: StorageCall) -> None:
        """A call of this process has ended. Thread-safe."""
        self._requests.labels("server", call.op, call.code).inc()
        self._bytes.labels("server", call.op).inc(call.size)
        self._seconds.labels("server", call.op).inc(call.seconds)

    def add_of_jobs(
        self, requests: Mapping[tuple[str, str], float], size: Mapping[str, float], seconds: Mapping[str, float]
    ) -> None:
        """What job processes have done since they were last heard of: by operation and code, and by operation."""
        for (op, code), count in requests.items():
            self._requests.labels("job", op, code).inc(count)
        for op, count in size.items():
            self._bytes.labels("job", op).inc(count)
        for op, spent in seconds.items():
            self._seconds.labels("job", op).inc(spent)
