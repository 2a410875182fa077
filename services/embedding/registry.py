"""What this server has, in a SQLite file: it is on disk before a caller hears of it, and comes back after a restart."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, TypeVar

from services.common.errors import ServiceError
from services.embedding.records import Record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RecordT = TypeVar("RecordT", bound=Record)

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE resource (
    name TEXT PRIMARY KEY,
    parent TEXT NOT NULL,
    collection TEXT NOT NULL,
    uses TEXT,          -- name of the model that an index needs
    request_id TEXT,
    digest TEXT NOT NULL,  -- of what the caller asked for
    body TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX resource_of_parent ON resource (collection, parent, name);
CREATE INDEX resource_by_use ON resource (uses) WHERE uses IS NOT NULL;
CREATE UNIQUE INDEX resource_by_request ON resource (collection, parent, request_id) WHERE request_id IS NOT NULL;
"""


class Database:
    """The file. Thread-safe; one process at a time."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")  # a reply is only given for what survives a power loss
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            self._connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
        elif version != SCHEMA_VERSION:
            raise ServiceError(
                "RESOURCE_PROBLEM",
                f"{path} has schema {version}, this software {SCHEMA_VERSION}: use another state folder",
            )

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All of the body or nothing of it."""
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection
                self._connection.execute("COMMIT")
            except sqlite3.Error as error:
                raise ServiceError("RESOURCE_PROBLEM", f"the state of the server cannot be kept: {error}") from error
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    def check(self) -> None:
        """Read something. Raises RESOURCE_PROBLEM."""
        with self._lock:
            try:
                self._connection.execute("SELECT 1 FROM resource LIMIT 1").fetchone()
            except sqlite3.Error as error:
                raise ServiceError("RESOURCE_PROBLEM", f"the state of the server cannot be read: {error}") from error

    def close(self) -> None:
        with self._lock:
            self._connection.close()


class Registry(Generic[RecordT]):
    """The resources of one collection.

    Args:
        database: Where they are kept.
        collection: `models` or `indexes`.
        kind: Class of a record.
        noun: Upper-case start of the reasons: `MODEL` or `INDEX`.
    """

    def __init__(self, database: Database, *, collection: str, kind: type[RecordT], noun: str) -> None:
        self._database, self._collection, self._kind, self._noun = database, collection, kind, noun

    def existing(self, name: str, parent: str, *, request_id: str | None, digest: str) -> RecordT | None:
        """The resource that an earlier request with this id created, or None when the request is new.

        Raises:
            ServiceError: REQUEST_ID_REUSED; MODEL_ALREADY_EXISTS or INDEX_ALREADY_EXISTS.
        """
        with self._database.transaction() as connection:
            return self._existing(connection, name, parent, request_id=request_id, digest=digest)

    def add(
        self, record: RecordT, name: str, parent: str, *, request_id: str | None, digest: str, uses: str | None = None
    ) -> RecordT:
        """Keep a new resource, or return the one that the same request has created.

        Raises:
            ServiceError: As `existing`; MODEL_NOT_FOUND when `uses` names no model.
        """
        with self._database.transaction() as connection:
            earlier = self._existing(connection, name, parent, request_id=request_id, digest=digest)
            if earlier is not None:
                return earlier
            if uses is not None and _row(connection, uses) is None:
                raise ServiceError("MODEL_NOT_FOUND", f"there is no model {uses}", name=uses)
            connection.execute(
                "INSERT INTO resource VALUES (?, ?, ?, ?, ?, ?, ?)",
                (name, parent, self._collection, uses, request_id, digest, record.model_dump_json()),
            )
        return record

    def update(self, record: RecordT, name: str) -> None:
        """Replace a record; nothing happens when it is gone."""
        with self._database.transaction() as connection:
            connection.execute("UPDATE resource SET body = ? WHERE name = ?", (record.model_dump_json(), name))

    def remove(self, name: str) -> None:
        """Forget a resource.

        Raises:
            ServiceError: MODEL_IN_USE, naming an index that needs it.
        """
        with self._database.transaction() as connection:
            user = connection.execute(
                "SELECT name FROM resource WHERE uses = ? ORDER BY name LIMIT 1", (name,)
            ).fetchone()
            if user is not None:
                raise ServiceError(
                    "MODEL_IN_USE", f"{name} is used by {user[0]}: delete the index first", name=name, index=user[0]
                )
            connection.execute("DELETE FROM resource WHERE name = ?", (name,))

    def all(self) -> list[RecordT]:
        """Every record, by name."""
        with self._database.transaction() as connection:
            rows = connection.execute(
                "SELECT body FROM resource WHERE collection = ? ORDER BY name", (self._collection,)
            )
            return [self._kind.model_validate_json(body) for (body,) in rows]

    def _existing(
        self, connection: sqlite3.Connection, name: str, parent: str, *, request_id: str | None, digest: str
    ) -> RecordT | None:
        earlier = connection.execute(
            "SELECT name, digest, body FROM resource WHERE collection = ? AND parent = ? AND request_id = ?",
            (self._collection, parent, request_id),
        ).fetchone()
        if earlier is not None:
            if (earlier[0], earlier[1]) != (name, digest):
                raise ServiceError(
                    "REQUEST_ID_REUSED",
                    f"request_id {request_id} has created {earlier[0]} from other fields: a new request needs a new id",
                    name=earlier[0],
                )
            return self._kind.model_validate_json(earlier[2])
        if _row(connection, name) is not None:
            raise ServiceError(
                f"{self._noun}_ALREADY_EXISTS", f"{name} exists: delete it first, or take another id", name=name
            )
        return None


def _row(connection: sqlite3.Connection, name: str) -> object:
    return connection.execute("SELECT 1 FROM resource WHERE name = ?", (name,)).fetchone()
