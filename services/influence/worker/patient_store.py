"""An object store that may be away for a while: a job waits for it, and is late rather than failed."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, TypeVar

from services.common.errors import ServiceError
from services.common.storage.base import ObjectInfo, ObjectStore

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 15.0
_LOOK_S = 0.2
"""Between two looks at whether the job is still wanted."""

_T = TypeVar("_T")

logger = logging.getLogger(__name__)


class PatientStore:
    """Asks a store again for as long as it says STORAGE_UNAVAILABLE. Other errors are raised at once.

    A conditional write whose answer was lost may so find its own object: OBJECT_EXISTS then does not tell whose it is.
    A stream from `open` is made patiently, and breaks as one of the store does.

    Args:
        store: Repeats by itself what fails for some seconds.
        patience_s: How long one call is repeated, from its first failure.
        check: Called while it waits; what it raises ends the call.
    """

    def __init__(self, store: ObjectStore, *, patience_s: float, check: Callable[[], None]) -> None:
        self._store, self._patience_s, self._check = store, patience_s, check

    def head(self, uri: str) -> ObjectInfo:
        return self._call(lambda: self._store.head(uri))

    def open(
        self, uri: str, *, offset: int = 0, length: int | None = None, etag: str | None = None
    ) -> AbstractContextManager[BinaryIO]:
        return self._call(lambda: self._store.open(uri, offset=offset, length=length, etag=etag))

    def read(self, uri: str, *, max_bytes: int, sha256: str | None = None) -> bytes:
        return self._call(lambda: self._store.read(uri, max_bytes=max_bytes, sha256=sha256))

    def download(self, uri: str, path: Path, *, max_bytes: int, sha256: str | None = None) -> str:
        return self._call(lambda: self._store.download(uri, path, max_bytes=max_bytes, sha256=sha256))

    def put(self, uri: str, data: bytes | Path, *, if_absent: bool = False) -> ObjectInfo:
        return self._call(lambda: self._store.put(uri, data, if_absent=if_absent))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return iter(self._call(lambda: [*self._store.list(prefix)]))

    def delete(self, uri: str) -> None:
        self._call(lambda: self._store.delete(uri))

    def _call(self, call: Callable[[], _T]) -> _T:
        deadline, wait_s = None, FIRST_WAIT_S
        while True:
            try:
                return call()
            except ServiceError as error:
                now = time.monotonic()
                deadline = deadline or now + self._patience_s
                if error.reason != "STORAGE_UNAVAILABLE" or now >= deadline:
                    raise
                # Jobs that lost the same store at the same time do not all come back at the same time.
                pause_s = min(random.uniform(0.5, 1.5) * wait_s, deadline - now)
                logger.warning("asked again in %.1f s: %s", pause_s, error.message)
            self._sleep(pause_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._check()
            time.sleep(min(left, _LOOK_S))
