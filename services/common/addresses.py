"""Addresses that a server listens on."""

from __future__ import annotations

import ipaddress

from services.common.errors import ServiceError


def check_address(listen: str, *, insecure: bool, encrypted: bool = False) -> None:
    """Refuse an address without a port, and plain text where other machines can read it unless that is allowed.

    Raises:
        ServiceError: ARGUMENT_INVALID.
    """
    _, separator, port = listen.rpartition(":")
    if not separator or not port.isdigit() or int(port) > 65535:
        raise ServiceError("ARGUMENT_INVALID", f"listen address {listen!r} must be host:port", field="listen")
    if not insecure and not encrypted and not is_loopback(listen):
        raise ServiceError(
            "ARGUMENT_INVALID",
            f"refusing to listen on {listen}: traffic is plain text and other machines could reach it; set a "
            "certificate (docs/security.md), listen on 127.0.0.1, or allow it with insecure=true behind something that "
            "encrypts",
            field="listen",
        )


def is_loopback(listen: str) -> bool:
    """Whether only this machine can reach an address `host:port`."""
    host = listen.rpartition(":")[0]
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
