"""The object store as the rest of the system sees it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectInfo:
    """An object: where it is, its size in bytes, and a tag that changes with its content."""

    uri: str
    size: int
    etag: str


class ObjectStore(Protocol):
    """Objects by URI. Synchronous and thread-safe; not shared between processes.

    Every method raises ServiceError: OBJECT_NOT_FOUND, URI_NOT_ALLOWED (scheme, root, bucket or characters),
    STORAGE_DENIED, STORAGE_UNAVAILABLE (after retries), and those it names. Readers see whole objects or none: a write
    becomes visible at once and complete.
    """

    def head(self, uri: str) -> ObjectInfo:
        """Size and etag of an object."""
        ...

    def open(
        self, uri: str, *, offset: int = 0, length: int | None = None, etag: str | None = None
    ) -> AbstractContextManager[BinaryIO]:
        """Stream an object, or `length` bytes of it from `offset`.

        A connection that breaks in the middle is resumed where it broke, on the same content: reading raises
        OBJECT_CHANGED when the object is no longer the one that `etag` names, or was replaced while it was read.
        """
        ...

    def read(self, uri: str, *, max_bytes: int, sha256: str | None = None) -> bytes:
        """A whole object. Raises OBJECT_TOO_LARGE before reading past `max_bytes`, OBJECT_DIGEST_MISMATCH after."""
        ...

    def download(self, uri: str, path: Path, *, max_bytes: int, sha256: str | None = None) -> str:
        """Copy an object to a file and return its sha256 (hex). The file is complete or absent. Raises as `read`."""
        ...

    def put(self, uri: str, data: bytes | Path, *, if_absent: bool = False) -> ObjectInfo:
        """Write an object from bytes or from a file. With `if_absent`, raises OBJECT_EXISTS when there is one."""
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Objects whose URI starts with `prefix`, in order of their URIs."""
        ...

    def delete(self, uri: str) -> None:
        """Remove an object. Removing one that is not there is no error."""
        ...
