"""A store that opens only what lies at some places: that of one project, for work on what others have written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

from services.common.storage.base import ObjectInfo, ObjectStore
from services.common.storage.uris import refused


class ConfinedStore:
    """Hands on what names a URI below one of the places, and refuses the rest with URI_NOT_ALLOWED.

    A manifest is data: whoever wrote it may name objects that its reader could open, but the project may not.

    Args:
        store: Where the objects lie.
        places: Starts of URIs; each ends with `/`.
    """

    def __init__(self, store: ObjectStore, places: Sequence[str]) -> None:
        self._store, self._places = store, tuple(places)

    def head(self, uri: str) -> ObjectInfo:
        return self._at(uri).head(uri)

    def open(
        self, uri: str, *, offset: int = 0, length: int | None = None, etag: str | None = None
    ) -> AbstractContextManager[BinaryIO]:
        return self._at(uri).open(uri, offset=offset, length=length, etag=etag)

    def read(self, uri: str, *, max_bytes: int, sha256: str | None = None) -> bytes:
        return self._at(uri).read(uri, max_bytes=max_bytes, sha256=sha256)

    def download(self, uri: str, path: Path, *, max_bytes: int, sha256: str | None = None) -> str:
        return self._at(uri).download(uri, path, max_bytes=max_bytes, sha256=sha256)

    def put(self, uri: str, data: bytes | Path, *, if_absent: bool = False) -> ObjectInfo:
        return self._at(uri).put(uri, data, if_absent=if_absent)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self._at(prefix).list(prefix)

    def delete(self, uri: str) -> None:
        self._at(uri).delete(uri)

    def _at(self, uri: str) -> ObjectStore:
        if not uri.startswith(self._places):
            raise refused(uri, f"this project may use only what is below {', '.join(self._places) or 'nothing'}")
        return self._store
