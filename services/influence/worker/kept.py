"""Small results that are kept beside the features, for later jobs that would come to the same.

`<folder>/<key>`, where the key is a digest of everything that a result depends on. An object begins with the sha256 of
what follows; one that was damaged is worked out again.
"""

from __future__ import annotations

import hashlib
import logging

from services.common.errors import ServiceError
from services.common.storage.base import ObjectStore

MAX_BYTES = 256 << 20
"""Of one object."""

_DIGEST = hashlib.sha256().digest_size
_PASSED_OVER = frozenset({"OBJECT_NOT_FOUND", "OBJECT_TOO_LARGE", "STORAGE_DENIED", "URI_NOT_ALLOWED"})

logger = logging.getLogger(__name__)


class Kept:
    """Objects by key.

    Args:
        store: Where they lie.
        folder: URI of their folder.
    """

    def __init__(self, store: ObjectStore, folder: str) -> None:
        self._store, self._folder = store, folder.rstrip("/")

    def get(self, key: str) -> bytes | None:
        """What is kept, if it is there and whole. Raises STORAGE_UNAVAILABLE."""
        try:
            data = self._store.read(f"{self._folder}/{key}", max_bytes=MAX_BYTES)
        except ServiceError as error:
            if error.reason not in _PASSED_OVER:
                raise
            return None
        content = data[_DIGEST:]
        if hashlib.sha256(content).digest() != data[:_DIGEST]:
            logger.warning("%s/%s is damaged: it is worked out again", self._folder, key)
            return None
        return content

    def put(self, key: str, content: bytes) -> None:
        """Keep something, where that is allowed. Raises STORAGE_UNAVAILABLE."""
        if len(content) > MAX_BYTES - _DIGEST:
            return
        try:
            self._store.put(f"{self._folder}/{key}", hashlib.sha256(content).digest() + content)
        except ServiceError as error:
            if error.reason not in _PASSED_OVER:
                raise
            logger.warning("not kept for later jobs: %s", error.message)


def key_of(*parts: bytes | memoryview | str) -> str:
    """A digest (hex) of parts in their order; where one ends and the next begins counts."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()
