"""The PostgreSQL engine: transactions that never wait for ever. What may not happen at once locks rows (sql_leases)."""

from __future__ import annotations

import sqlalchemy as sa

CONNECT_TIMEOUT_S = 5
LOCK_TIMEOUT_MS = 10_000
STATEMENT_TIMEOUT_MS = 30_000
_DEAD_PEER = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3, "tcp_user_timeout": 10_000}
"""How soon libpq notices that the other end of a connection is gone: seconds, seconds, tries, milliseconds."""


def postgres_engine(url: str) -> sa.Engine:
    """An engine on `postgresql://user:password@host/database`.

    Connections that broke are noticed before they are used. A commit is durable as the server's `synchronous_commit`
    says, which is on by default.
    """
    options = f"-c lock_timeout={LOCK_TIMEOUT_MS} -c statement_timeout={STATEMENT_TIMEOUT_MS}"
    return sa.create_engine(
        sa.make_url(url).set(drivername="postgresql+psycopg"),
        isolation_level="READ COMMITTED",
        pool_size=4,
        max_overflow=0,
        pool_timeout=30,
        pool_pre_ping=True,
        connect_args={"connect_timeout": CONNECT_TIMEOUT_S, "options": options, **_DEAD_PEER},
    )
