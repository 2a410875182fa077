"""A channel to one service: deadlines, retries of what is safe to retry, and errors as EifRpcError."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

import grpc

from services.client.channel import is_loopback, open_channel
from services.client.credentials import Credentials
from services.client.errors import Cancelled, from_rpc_error

Request_contra = TypeVar("Request_contra", contravariant=True)
Response_co = TypeVar("Response_co", covariant=True)

MAX_RECEIVED_BYTES = 64 * 2**20
PING_MS, PONG_MS = 60_000, 20_000
_RETRY_POLICY = {
    # Five tries in about three seconds; gRPC adds jitter of 20 %. UNAVAILABLE is the only code that is safe (AIP-194).
    "maxAttempts": 5,
    "initialBackoff": "0.2s",
    "maxBackoff": "2s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}


class Unary(Protocol[Request_contra, Response_co]):
    """A method of a stub that takes one message and gives one."""

    def __call__(self, request: Request_contra, /, timeout: float | None = None) -> Response_co: ...


class ServerStream(Protocol[Response_co]):
    """A running call that gives many messages."""

    def __iter__(self) -> Iterator[Response_co]: ...
    def cancel(self) -> object: ...


class Connection:
    """A channel to `target`; synchronous and thread-safe.

    Args:
        target: `host:port`, or any name that gRPC resolves.
        service: Full name of the gRPC service.
        retried: Methods that may be sent again when the server was UNAVAILABLE.
        timeout: Seconds until a unary call is given up, its retries included.
        credentials: How the server is known, and who calls.

    Raises:
        CredentialsError: The credentials cannot be used for this target.
    """

    def __init__(
        self,
        target: str,
        *,
        service: str,
        retried: Sequence[str],
        timeout: float,
        credentials: Credentials | None = None,
    ) -> None:
        if timeout <= 0:
            raise ValueError(f"timeout must be above 0 seconds, got {timeout}")
        self.target = target
        self.timeout = timeout
        self.channel = open_channel(
            target,
            credentials=credentials or Credentials(),
            options=_options(target, service=service, retried=retried),
        )
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether the client was closed."""
        return self._closed

    def close(self) -> None:
        """Close the channel; every call that still runs on it is cancelled."""
        self._closed = True
        self.channel.close()

    def call(
        self,
        method: Unary[Request_contra, Response_co],
        request: Request_contra,
        *,
        timeout: float | None = None,
    ) -> Response_co:
        """The answer to one request. Raises EifRpcError."""
        self.check_open()
        try:
            return method(request, timeout=timeout or self.timeout)
        except grpc.RpcError as error:
            raise from_rpc_error(error, target=self.target) from error

    def check_open(self) -> None:
        """Raise Cancelled when the client was closed."""
        if self._closed:
            raise client_closed(self.target)


def client_closed(target: str) -> Cancelled:
    """The error of whoever uses a client that was closed."""
    return Cancelled(grpc.StatusCode.CANCELLED, "CLIENT_CLOSED", f"the client of {target} was closed")


def service_config(service: str, retried: Sequence[str]) -> str:
    """The gRPC service config that retries the methods named, as JSON."""
    names = [{"service": service, "method": method} for method in retried]
    return json.dumps(
        {
            "methodConfig": [{"name": names, "retryPolicy": _RETRY_POLICY}],
            # When a server is down for long, few of many callers go on hammering it.
            "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.5},
        }
    )


def _options(target: str, *, service: str, retried: Sequence[str]) -> list[tuple[str, str | int]]:
    options: list[tuple[str, str | int]] = [
        ("grpc.service_config", service_config(service, retried)),
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.max_receive_message_length", MAX_RECEIVED_BYTES),
        # A connection that died without a word is noticed after at most 80 seconds while a call runs on it.
        ("grpc.keepalive_time_ms", PING_MS),
        ("grpc.keepalive_timeout_ms", PONG_MS),
        ("grpc.http2.ping_timeout_ms", PONG_MS),  # the answer to a ping: a minute by default
        # gRPC's own pause before it connects again would otherwise outlast the retries.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.min_reconnect_backoff_ms", 1_000),
        ("grpc.max_reconnect_backoff_ms", 5_000),
        ("grpc.primary_user_agent", "eif-client"),
    ]
    # A proxy from the environment cannot reach this machine's own loopback.
    return [*options, ("grpc.enable_http_proxy", 0)] if is_loopback(target) else options
