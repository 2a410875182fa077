"""Calls as Prometheus counts them, under the names that dashboards for gRPC know."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import grpc
from google.protobuf import descriptor_pool
from prometheus_client import CollectorRegistry, Counter, Histogram

from services.common.call_record import CallRecord
from services.common.calls import is_quiet
from services.common.errors import STATUS_BY_REASON

_LABELS = ("grpc_type", "grpc_service", "grpc_method")
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

_Labels = tuple[str, str, str]

UNKNOWN: _Labels = ("unary", "unknown", "unknown")
"""All methods that this server does not have: what callers make up must not become labels."""


@dataclass(frozen=True, kw_only=True)
class _Series:
    """The series of one method, looked up once."""

    started: Counter
    received: Counter
    sent: Counter
    seconds: Histogram


class CallMetrics:
    """A CallObserver.

    Args:
        registry: Of the server.
        services: Full names of its services. Their methods are taken from their descriptors.
    """

    def __init__(self, registry: CollectorRegistry, services: Iterable[str]) -> None:
        self._started = Counter("grpc_server_started_total", "Calls that began.", _LABELS, registry=registry)
        self._received = Counter("grpc_server_msg_received_total", "Messages of callers.", _LABELS, registry=registry)
        self._sent = Counter("grpc_server_msg_sent_total", "Messages to callers.", _LABELS, registry=registry)
        self._handled = Counter(
            "grpc_server_handled_total", "Calls that ended, by status.", [*_LABELS, "grpc_code"], registry=registry
        )
        self._seconds = Histogram(
            "grpc_server_handling_seconds",
            "From the first to the last moment of a call.",
            _LABELS,
            buckets=_BUCKETS,
            registry=registry,
        )
        self._failures = Counter(
            "eif_call_failures_total",
            "Calls that ended with an error, by its reason (docs/reference/errors.md).",
            ["grpc_method", "reason"],
            registry=registry,
        )
        self._methods = methods_of(services)
        self._series: dict[_Labels, _Series] = {}
        for method, labels in self._methods.items():
            self._prepare(labels, quiet=is_quiet(method))

    def begin(self, record: CallRecord) -> None:
        self._of(self._labels(record)).started.inc()

    def end(self, record: CallRecord) -> None:
        labels = self._labels(record)
        series = self._of(labels)
        series.received.inc(record.received)
        series.sent.inc(record.sent)
        series.seconds.observe(record.seconds)
        self._handled.labels(*labels, _camel(record.code)).inc()
        if record.reason in STATUS_BY_REASON:
            self._failures.labels(labels[2], record.reason).inc()

    def _labels(self, record: CallRecord) -> _Labels:
        return self._methods.get(record.method, UNKNOWN)

    def _of(self, labels: _Labels) -> _Series:
        series = self._series.get(labels)
        if series is None:
            series = self._series[labels] = _Series(
                started=self._started.labels(*labels),
                received=self._received.labels(*labels),
                sent=self._sent.labels(*labels),
                seconds=self._seconds.labels(*labels),
            )
        return series

    def _prepare(self, labels: _Labels, *, quiet: bool) -> None:
        """Let the counters begin at 0: of one that appears with its first event, `rate` does not see that event."""
        self._of(labels)
        for code in (grpc.StatusCode.OK,) if quiet else grpc.StatusCode:
            self._handled.labels(*labels, _camel(code))


def methods_of(services: Iterable[str]) -> Mapping[str, _Labels]:
    """Labels by `/service/method`, of the services that have a descriptor."""
    found: dict[str, _Labels] = {}
    for name in services:
        try:
            service = descriptor_pool.Default().FindServiceByName(name)
        except KeyError:
            continue
        for method in service.methods:
            found[f"/{name}/{method.name}"] = (
                _type(method.client_streaming, method.server_streaming),
                name,
                method.name,
            )
    return found


def _type(client: bool, server: bool) -> str:  # noqa: FBT001  the two flags of a method
    return {(False, False): "unary", (True, False): "client_stream", (False, True): "server_stream"}.get(
        (client, server), "bidi_stream"
    )


def _camel(code: grpc.StatusCode) -> str:
    """As dashboards write it: `OK`, `NotFound`, `Canceled`."""
    special = {grpc.StatusCode.OK: "OK", grpc.StatusCode.CANCELLED: "Canceled"}
    return special.get(code) or "".join(part.capitalize() for part in code.name.split("_"))
