"""A channel with credentials."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from typing import TypeVar

import grpc

from services.client.call_details import CallDetails, with_metadata
from services.client.credentials import Credentials, CredentialsError
from services.client.encryption import encrypted_channel
from services.client.tracing import TraceInterceptor

Call = TypeVar("Call")

_RESOLVER = re.compile(r"^(dns:(//[^/]*/)?|ipv4:|ipv6:)")


def open_channel(
    target: str, *, credentials: Credentials, options: Sequence[tuple[str, str | int]] = ()
) -> grpc.Channel:
    """A channel to `target`, encrypted and with a token as the credentials say.

    Raises:
        CredentialsError: A file cannot be used, or a token would leave this machine in plain text.
    """
    check_target(target, credentials)
    if credentials.encrypted:
        channel = encrypted_channel(target, credentials, options)
    else:
        channel = grpc.insecure_channel(target, options=list(options))
    bearer = (_Bearer(credentials),) if credentials.has_token else ()
    return grpc.intercept_channel(channel, TraceInterceptor(), *bearer)


def check_target(target: str, credentials: Credentials) -> None:
    """Refuse to send a token where others can read it. Raises CredentialsError."""
    if credentials.has_token and not credentials.encrypted and not is_loopback(target):
        raise CredentialsError(f"refusing to send a token to {target} in plain text; use TLS, or name its authority")


def is_loopback(target: str) -> bool:
    """Whether a target names this machine's loopback."""
    host = _RESOLVER.sub("", target).rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return target.startswith("unix:")


class _Bearer(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """Sends the token of that moment with every call. Call credentials would do so over TLS only."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def intercept_unary_unary(
        self, continuation: Callable[..., Call], client_call_details: grpc.ClientCallDetails, request: object
    ) -> Call:
        return continuation(self._with_token(client_call_details), request)

    def intercept_unary_stream(
        self, continuation: Callable[..., Call], client_call_details: grpc.ClientCallDetails, request: object
    ) -> Call:
        return continuation(self._with_token(client_call_details), request)

    def _with_token(self, details: grpc.ClientCallDetails) -> CallDetails:
        return with_metadata(details, "authorization", f"Bearer {self._credentials.bearer()}")
