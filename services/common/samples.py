"""Images of samples out of the object store, prefetched by threads, in the order of the manifest."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from eif_engine.errors import EifError
from eif_engine.types import Quarantined, Sample
from services.common.errors import ServiceError
from services.common.sample_limits import DEFAULT_LIMITS, SampleLimits
from services.common.storage.base import ObjectStore
from services.common.tars import TarCache

__all__ = ["DEFAULT_LIMITS", "QUARANTINE_REASONS", "SampleLimits", "SampleReader", "read_samples"]

QUARANTINE_REASONS = frozenset(
    {
        "ARCHIVE_INVALID",
        "OBJECT_CHANGED",
        "OBJECT_DIGEST_MISMATCH",
        "OBJECT_NOT_FOUND",
        "OBJECT_TOO_LARGE",
        "STORAGE_DENIED",
        "URI_NOT_ALLOWED",
    }
)
"""Faults of one sample. Every other fault is one of the store, and is raised."""


def read_samples(
    store: ObjectStore,
    samples: Iterable[Sample],
    *,
    limits: SampleLimits = DEFAULT_LIMITS,
    workers: int = 8,
    scratch: Path | None = None,
) -> Generator[tuple[Sample, bytes | Quarantined]]:
    """Read the image of each sample, as `SampleReader.read` does, once. Close it (or end it) to stop the threads."""
    with SampleReader(store, limits=limits, workers=workers, scratch=scratch) as reader:
        yield from reader.read(samples)


class SampleReader:
    """Reads images with threads; what it knows of tars is kept from one `read` to the next. Used in a `with`.

    Args:
        store: Where they lie.
        limits: What may be read.
        workers: Threads that read.
        scratch: Folder for tars; a temporary one when not given. It is left as it was found.
    """

    def __init__(
        self,
        store: ObjectStore,
        *,
        limits: SampleLimits = DEFAULT_LIMITS,
        workers: int = 8,
        scratch: Path | None = None,
    ) -> None:
        self._store, self._limits, self._workers, self._scratch = store, limits, workers, scratch
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tars-", dir=self._scratch))
            tars = TarCache(self._store, Path(folder), self._limits)
            stack.callback(tars.close)
            self._fetch = _Fetch(self._store, self._limits, tars)
            self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="samples")
            stack.callback(self._pool.shutdown, wait=True, cancel_futures=True)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def read(self, samples: Iterable[Sample]) -> Generator[tuple[Sample, bytes | Quarantined]]:
        """Read the image of each sample; they are taken lazily, a little ahead. Close it (or end it) to stop that.

        Yields:
            Each sample in order, with its bytes, or with the reason why it could not be read.

        Raises:
            ServiceError: STORAGE_UNAVAILABLE. The samples before it have been yielded.
        """
        yield from _Window(self._pool, self._fetch, self._limits, ahead=4 * self._workers).run(iter(samples))


class _Fetch:
    def __init__(self, store: ObjectStore, limits: SampleLimits, tars: TarCache) -> None:
        self._store, self._limits, self._tars = store, limits, tars

    def read(self, sample: Sample) -> bytes | Quarantined:
        try:
            if sample.member is None:
                return self._store.read(sample.uri, max_bytes=self._limits.max_sample_bytes, sha256=sample.sha256)
            return self._tars.read(sample.uri, sample.member, sha256=sample.sha256)
        except ServiceError as error:
            if error.reason not in QUARANTINE_REASONS:
                raise
            return Quarantined(sample_id=sample.sample_id, uri=sample.uri, reason=error.reason, message=error.message)


class _Window:
    """The samples that are being read or wait to be handed over; their bytes stay within the limit."""

    def __init__(self, pool: ThreadPoolExecutor, fetch: _Fetch, limits: SampleLimits, *, ahead: int) -> None:
        self._pool, self._fetch, self._limits, self._ahead = pool, fetch, limits, ahead
        self._pending: deque[tuple[Sample, Future[bytes | Quarantined]]] = deque()
        self._ended: Exception | None = None

    def run(self, samples: Iterator[Sample]) -> Generator[tuple[Sample, bytes | Quarantined]]:
        try:
            while True:
                self._fill(samples)
                if not self._pending:
                    break
                sample, future = self._pending.popleft()
                yield sample, future.result()
        finally:
            for _, future in self._pending:
                future.cancel()
        if not isinstance(self._ended, StopIteration):
            raise self._ended or RuntimeError("the window is empty before the samples end")

    def _fill(self, samples: Iterator[Sample]) -> None:
        """Submit what fits. A fault of the manifest waits until the samples before it are handed over."""
        while self._ended is None and self._has_room():
            try:
                sample = next(samples)
            except (StopIteration, EifError) as ended:
                self._ended = ended
            else:
                self._pending.append((sample, self._pool.submit(self._fetch.read, sample)))

    def _has_room(self) -> bool:
        held = sum(self._bytes_of(future) for _, future in self._pending)
        fits = held + self._limits.max_sample_bytes <= self._limits.max_bytes_in_flight
        return not self._pending or (fits and len(self._pending) < self._ahead)

    def _bytes_of(self, future: Future[bytes | Quarantined]) -> int:
        """What a read holds; while it runs, what it may hold at most."""
        if not future.done():
            return self._limits.max_sample_bytes
        if future.cancelled() or future.exception() is not None:
            return 0
        data = future.result()
        return len(data) if isinstance(data, bytes) else 0
