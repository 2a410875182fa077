"""Connections of a server: how many there may be, and how long they stay."""

from __future__ import annotations

import resource
from dataclasses import dataclass

_MOST_FILES = 1 << 16
_IDLE_S = 300


@dataclass(frozen=True, kw_only=True)
class Connections:
    """Limits of the connections of one server.

    Attributes:
        max_open: At a time; further ones are closed at once.
        max_age_s: Until one is asked to close, so that clients spread over new servers and certificates are checked
            again; the library adds or takes a tenth at random. None: never.
        grace_s: That calls have to end on a connection that was asked to close.
        handshake_s: From its beginning until calls can come.
        ping_s: After which a silent one is asked whether anybody is there.
        pong_s: That the answer may take; then the connection, and the calls on it, are given up.
    """

    max_open: int = 4096
    max_age_s: float | None = 600.0
    grace_s: float = 300.0
    handshake_s: float = 10.0
    ping_s: float = 60.0
    pong_s: float = 20.0

    def as_options(self) -> list[tuple[str, int]]:
        """The options of a gRPC server. Dead connections are found by pings; those without calls are closed in time."""
        options = [
            ("grpc.so_reuseport", 0),  # by default a second server would take the same port, silently
            ("grpc.max_allowed_incoming_connections", min(self.max_open, raise_file_limit() * 3 // 4)),
            ("grpc.server_handshake_timeout_ms", int(self.handshake_s * 1000)),
            ("grpc.keepalive_time_ms", int(self.ping_s * 1000)),
            ("grpc.keepalive_timeout_ms", int(self.pong_s * 1000)),
            ("grpc.http2.ping_timeout_ms", int(self.pong_s * 1000)),  # the answer to a ping: a minute by default
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 30_000),
            ("grpc.max_connection_idle_ms", _IDLE_S * 1000),
        ]
        if self.max_age_s is not None:
            options += [
                ("grpc.max_connection_age_ms", int(self.max_age_s * 1000)),
                ("grpc.max_connection_age_grace_ms", int(self.grace_s * 1000)),
            ]
        return options


def raise_file_limit() -> int:
    """Let this process open as many files as it may, up to 65,536, and say how many that are.

    Usual limits of 1024 are for programs that wait by select(); here each connection is a file.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return _MOST_FILES if soft == resource.RLIM_INFINITY else soft
