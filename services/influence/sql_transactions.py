"""Transactions on a database that others use too: tried again when they meet, and their errors in our words."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import IntEnum
from typing import Any, TypeVar

import sqlalchemy as sa

from services.common.errors import ServiceError

_T = TypeVar("_T")

_TRIES = 12
"""Of a transaction that others get in the way of; then they are too many."""
_CONFLICTS = frozenset({"40001", "40P01"})
"""SQLSTATE of a serialization failure and of a deadlock: nothing was changed, and the next try may get through."""
_EXHAUSTED = "53"
"""Class of the SQLSTATEs for a full disk, too little memory, too many connections."""
_SHOWN = 300
_LOCKS = 0x6569_6600_0100
"""First of the advisory locks of turns on PostgreSQL."""


class Turn(IntEnum):
    """Transactions of which one at a time may count jobs and then change their number. SQLite has only such."""

    CREATE = 1
    CLAIM = 2


class Transactions:
    """Runs transactions on an engine that makes them durable. Each statement sees what was committed before it."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        on_postgresql = engine.dialect.name == "postgresql"
        # A snapshot is enough for what only reads, and on PostgreSQL it never meets a serialization failure.
        snapshot = {"isolation_level": "REPEATABLE READ"} if on_postgresql else {}
        self._reads: dict[str, Any] = {"reads_only": True, **snapshot}
        self._one_read: dict[str, Any] = {"isolation_level": "AUTOCOMMIT"} if on_postgresql else {"one_read": True}

    def run(self, work: Callable[[sa.Connection], _T], *, reads_only: bool = False, turn: Turn | None = None) -> _T:
        """Run a transaction; again where others got in its way, which changes nothing.

        Args:
            work: What is done in it.
            reads_only: It sees one state of the whole database, and changes nothing.
            turn: It waits until no other one of the same turn is under way, on any server.

        Raises:
            ServiceError: RESOURCE_PROBLEM, JOB_TABLE_UNAVAILABLE.
        """
        for _ in range(_TRIES):
            with (
                suppress(_ConflictError),
                translated(),
                self._engine.connect().execution_options(**(self._reads if reads_only else {})) as connection,
                connection.begin(),
            ):
                if turn is not None and connection.dialect.name == "postgresql":
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCKS + turn)))
                return work(connection)
            time.sleep(random.uniform(0.001, 0.02))
        raise ServiceError("RESOURCE_PROBLEM", "too many others change the job table now; nothing was changed")

    def first(self, statement: sa.Select[Any], parameters: Mapping[str, Any]) -> sa.Row[Any] | None:
        """The first row that one statement finds. It needs no transaction: by itself it sees one state of all tables.

        Raises:
            ServiceError: As run.
        """
        with translated(), self._engine.connect().execution_options(**self._one_read) as connection:
            return connection.execute(statement, parameters).first()

    def close(self) -> None:
        """Let go of the connections."""
        self._engine.dispose()


class _ConflictError(Exception):
    """Others got in the way of a transaction; nothing of it remains."""


@contextmanager
def translated() -> Iterator[None]:
    """Say what the database says in the words of the service."""
    try:
        yield
    except sa.exc.TimeoutError as error:
        raise _unusable("RESOURCE_PROBLEM", "every connection is in use") from error
    except sa.exc.IntegrityError as error:  # a name or request that another transaction has taken a moment ago
        raise _ConflictError from error
    except sa.exc.DBAPIError as error:
        state = getattr(error.orig, "sqlstate", None) or ""
        if state in _CONFLICTS:
            raise _ConflictError from error
        if not isinstance(error, sa.exc.OperationalError) and not error.connection_invalidated:
            raise
        here = isinstance(error.orig, sqlite3.Error) or state.startswith(_EXHAUSTED)
        why = str(error.orig).strip().partition("\n")[0][:_SHOWN]
        raise _unusable("RESOURCE_PROBLEM" if here else "JOB_TABLE_UNAVAILABLE", why) from error


def _unusable(reason: str, why: str) -> ServiceError:
    what = f"the job table cannot be used now ({why}); try again later, a request with the same request_id is safe"
    return ServiceError(reason, what)
