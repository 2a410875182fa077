"""What a server has so that it can be seen: metrics, traces, and a store that is measured."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from grpc_health.v1 import health_pb2
from prometheus_client import Gauge

from services.common.call_metrics import CallMetrics
from services.common.call_record import place_of_request
from services.common.call_tracing import CallTracing
from services.common.calls import CallObserver
from services.common.gpu_memory import GpuMemory
from services.common.metrics import StorageMetrics, exposition, new_registry
from services.common.storage.base import ObjectStore
from services.common.storage.metered import MeteredStore
from services.common.tracing import NoTracing, Tracing

TRACES_S = 2.0
"""For the last spans: a collector that is away does not hold up the end of a server for longer."""

_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
_REFLECTION = "grpc.reflection.v1alpha.ServerReflection"


class Observability:
    """Of one server.

    Args:
        service: Its name, for `eif_build_info`.
        tracing: Where its spans go.
    """

    def __init__(self, service: str, tracing: Tracing | None = None) -> None:
        self.registry = new_registry(service)
        self.tracing = tracing or NoTracing()
        self.storage = StorageMetrics(self.registry)
        GpuMemory(self.registry)
        self._certificates = Gauge(
            "eif_certificate_expiry_timestamp_seconds",
            "When the certificates in use end, in seconds since 1970.",
            ["certificate"],
            registry=self.registry,
        )

    def observers(self, services: Sequence[str]) -> list[CallObserver]:
        """What `start_server` tells of calls; `services` are the full names of what the server speaks. Call it once."""
        return [CallTracing(self.tracing), CallMetrics(self.registry, [*services, _HEALTH, _REFLECTION])]

    def metered(self, store: ObjectStore) -> ObjectStore:
        """The store, measured; what is asked of it for a call is in the call's trace."""
        return MeteredStore(store, self.storage.record, tracing=self.tracing, place=place_of_request)

    def show_certificates(self, ends: Mapping[str, Callable[[], float]]) -> None:
        """Tell when certificates end, by what they are for (Protection.certificate_ends)."""
        for name, end in ends.items():
            self._certificates.labels(name).set_function(end)

    def close(self) -> None:
        """Send the last spans."""
        self.tracing.close(timeout_s=TRACES_S)

    async def exposition(self) -> bytes:
        """The text of `/metrics`."""
        return await asyncio.to_thread(exposition, self.registry)
