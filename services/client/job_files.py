"""Files of a result as they stream in: resumed where they broke, checked part by part and as a whole."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import google_crc32c
import grpc
from eif.influence.v1 import audit_pb2, influence_service_pb2

from services.client.connection import Connection, ServerStream
from services.client.errors import StreamCorrupt
from services.client.reconnect import Reconnect
from services.client.streams import Stream, resuming

if TYPE_CHECKING:
    import pyarrow as pa

Request = influence_service_pb2.ReadJobFileRequest
OpenCall = Callable[[Request, float], ServerStream[audit_pb2.FileChunk]]


def open_job_file(
    open_call: OpenCall, request: Request, *, connection: Connection, reconnect: Reconnect
) -> Stream[bytes]:
    """Stream a file; a call that breaks is followed by one that starts after the last part."""
    return Stream(_parts(open_call, request, connection=connection, reconnect=reconnect))


def save(parts: Stream[bytes], path: Path) -> None:
    """Write a file; it is complete or absent."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with closing(parts), partial.open("wb") as file:
            for part in parts:
                file.write(part)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def require_tables() -> None:
    """Find out before anything is fetched. Raises ImportError that says what to install."""
    try:
        import pyarrow.parquet  # noqa: F401 - only whether it is there
    except ModuleNotFoundError as error:
        raise ImportError("tables need pyarrow: pip install 'eif-service[tables]'") from error


def parquet_table(data: bytes) -> pa.Table:
    """A table from the bytes of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    return pq.read_table(pa.BufferReader(data))


def _parts(
    open_call: OpenCall, request: Request, *, connection: Connection, reconnect: Reconnect
) -> Generator[bytes, None, None]:
    position = _Position(request)
    messages = resuming(
        lambda timeout: open_call(request, timeout),
        connection=connection,
        reconnect=reconnect,
        is_complete=lambda: position.complete,
    )
    with closing(messages):
        for message in messages:
            position.advance(message)
            request.offset = position.offset
            if message.data:
                yield message.data
            if position.complete:
                return


class _Position:
    """How far a file was read, and what must come next."""

    def __init__(self, request: Request) -> None:
        self._name, self._file = request.name, request.file
        self._digest = hashlib.sha256()
        self.offset = 0
        self.complete = False

    def advance(self, chunk: audit_pb2.FileChunk) -> None:
        """Go past a part. Raises StreamCorrupt when it, or the whole file, is not what it must be."""
        if chunk.offset != self.offset:
            raise self._corrupt(f"byte {self.offset} must come next, not {chunk.offset}")
        if google_crc32c.value(chunk.data) != chunk.crc32c:
            raise self._corrupt("its checksum is wrong")
        self._digest.update(chunk.data)
        self.offset += len(chunk.data)
        self.complete = self.offset >= chunk.total_bytes
        if self.complete and self._digest.hexdigest() != chunk.sha256:
            raise self._corrupt(f"its sha256 is {self._digest.hexdigest()}, not {chunk.sha256}")

    def _corrupt(self, what: str) -> StreamCorrupt:
        return StreamCorrupt(
            grpc.StatusCode.DATA_LOSS,
            "STREAM_CORRUPT",
            f"{self._file} of {self._name} cannot be trusted at byte {self.offset}: {what}; read it again, and when "
            "this repeats, run the job again",
            {"job": self._name, "file": self._file},
        )
