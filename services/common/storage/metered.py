"""An object store that tells what was asked of it: operation, outcome, bytes and time of every request."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from eif_engine.errors import EifError
from services.common.storage.base import ObjectInfo, ObjectStore
from services.common.traceparent import TraceParent
from services.common.tracing import NoTracing, Span, SpanKind, Tracing

OPERATIONS = ("head", "open", "read", "download", "put", "list", "delete")
OK = "OK"
OTHER = "INTERNAL"
"""The code of an error without a reason."""

_EXPECTED = frozenset({OK, "OBJECT_NOT_FOUND", "OBJECT_EXISTS"})
"""Codes that are answers, not faults: results are looked for before they are there."""

_BUFFER_BYTES = 8192  # longer reads pass it by


@dataclass(frozen=True, kw_only=True, slots=True)
class StorageCall:
    """A request that has ended: one of OPERATIONS, OK or the reason of its error, bytes moved, seconds."""

    op: str
    code: str
    size: int
    seconds: float


class _Running:
    """A request under way: what is known of it so far."""

    def __init__(self, op: str, span: Span | None) -> None:
        self.op, self.span = op, span
        self.code, self.size, self.seconds = OK, 0, 0.0

    @contextmanager
    def clock(self) -> Iterator[None]:
        """Time in the store, without that of whoever uses what it gives; and why it failed, if it did."""
        started = time.perf_counter()
        try:
            yield
        except EifError as error:
            self.code = error.reason
            raise
        except Exception:
            self.code = OTHER
            raise
        finally:
            self.seconds += time.perf_counter() - started


class MeteredStore:
    """An ObjectStore around another.

    Args:
        store: The other.
        record: Takes each request when it has ended; called from any thread.
        tracing: Makes a span of those that are done for something.
        place: What the request is done for; None: no span.
    """

    def __init__(
        self,
        store: ObjectStore,
        record: Callable[[StorageCall], None],
        *,
        tracing: Tracing | None = None,
        place: Callable[[], TraceParent | None] = lambda: None,
    ) -> None:
        self._store, self._record = store, record
        self._tracing, self._place = tracing or NoTracing(), place

    def head(self, uri: str) -> ObjectInfo:
        with self._running("head") as run, run.clock():
            return self._store.head(uri)

    def open(
        self, uri: str, *, offset: int = 0, length: int | None = None, etag: str | None = None
    ) -> AbstractContextManager[BinaryIO]:
        run = self._begin("open")
        try:
            with run.clock():
                stream = ExitStack()
                file = stream.enter_context(self._store.open(uri, offset=offset, length=length, etag=etag))
        except BaseException:
            self._end(run)
            raise
        stream.callback(self._end, run)
        return io.BufferedReader(_Metered(file, run, stream.close), _BUFFER_BYTES)

    def read(self, uri: str, *, max_bytes: int, sha256: str | None = None) -> bytes:
        with self._running("read") as run, run.clock():
            data = self._store.read(uri, max_bytes=max_bytes, sha256=sha256)
            run.size = len(data)
            return data

    def download(self, uri: str, path: Path, *, max_bytes: int, sha256: str | None = None) -> str:
        with self._running("download") as run, run.clock():
            digest = self._store.download(uri, path, max_bytes=max_bytes, sha256=sha256)
            run.size = path.stat().st_size
            return digest

    def put(self, uri: str, data: bytes | Path, *, if_absent: bool = False) -> ObjectInfo:
        with self._running("put") as run, run.clock():
            info = self._store.put(uri, data, if_absent=if_absent)
            run.size = info.size
            return info

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        with self._running("list") as run:
            with run.clock():
                found = iter(self._store.list(prefix))
            while True:
                with run.clock():
                    info = next(found, None)
                if info is None:
                    return
                yield info

    def delete(self, uri: str) -> None:
        with self._running("delete") as run, run.clock():
            self._store.delete(uri)

    @contextmanager
    def _running(self, op: str) -> Iterator[_Running]:
        run = self._begin(op)
        try:
            yield run
        finally:
            self._end(run)

    def _begin(self, op: str) -> _Running:
        place = self._place()
        span = self._tracing.start(f"storage {op}", parent=place, kind=SpanKind.CLIENT) if place else None
        return _Running(op, span)

    def _end(self, run: _Running) -> None:
        self._record(StorageCall(op=run.op, code=run.code, size=run.size, seconds=run.seconds))
        if run.span is not None:
            error = run.code if run.code not in _EXPECTED else None
            run.span.end(error=error, attributes={"eif.storage.code": run.code, "eif.storage.bytes": run.size})


class _Metered(io.RawIOBase):
    """A stream that is read through."""

    def __init__(self, stream: BinaryIO, run: _Running, on_close: Callable[[], None]) -> None:
        self._stream, self._run, self._on_close = stream, run, on_close

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # any writable buffer
        with self._run.clock():
            data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self._run.size += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._on_close()
