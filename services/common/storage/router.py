"""The store that the services use: every URI is checked against the settings, then goes to the store of its scheme."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

from services.common.settings import StorageSettings
from services.common.storage.base import ObjectInfo, ObjectStore
from services.common.storage.local import LocalStore
from services.common.storage.uris import refused, scheme_of


def open_store(settings: StorageSettings) -> ObjectStore:
    """The object store of this process. Not shared between processes: each opens its own."""
    stores: dict[str, ObjectStore] = {}
    if settings.file_roots:
        stores["file"] = LocalStore(settings.file_roots)
    if settings.s3_endpoint:
        from services.common.storage.s3 import S3Store

        stores["s3"] = S3Store(settings)
    return RoutedStore(stores, allowed_prefixes=settings.allowed_prefixes)


class RoutedStore:
    """Sends each URI to the store of its scheme, when it starts with one of `allowed_prefixes` (empty: any)."""

    def __init__(self, stores: dict[str, ObjectStore], *, allowed_prefixes: tuple[str, ...] = ()) -> None:
        self._stores = stores
        self._allowed = tuple(prefix if prefix.endswith("/") else f"{prefix}/" for prefix in allowed_prefixes)

    def head(self, uri: str) -> ObjectInfo:
        return self._store(uri).head(uri)

    def open(
        self, uri: str, *, offset: int = 0, length: int | None = None, etag: str | None = None
    ) -> AbstractContextManager[BinaryIO]:
        return self._store(uri).open(uri, offset=offset, length=length, etag=etag)

    def read(self, uri: str, *, max_bytes: int, sha256: str | None = None) -> bytes:
        return self._store(uri).read(uri, max_bytes=max_bytes, sha256=sha256)

    def download(self, uri: str, path: Path, *, max_bytes: int, sha256: str | None = None) -> str:
        return self._store(uri).download(uri, path, max_bytes=max_bytes, sha256=sha256)

    def put(self, uri: str, data: bytes | Path, *, if_absent: bool = False) -> ObjectInfo:
        return self._store(uri).put(uri, data, if_absent=if_absent)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self._store(prefix).list(prefix)

    def delete(self, uri: str) -> None:
        self._store(uri).delete(uri)

    def _store(self, uri: str) -> ObjectStore:
        scheme = scheme_of(uri)
        store = self._stores.get(scheme)
        if store is None:
            raise refused(uri, self._why_not(scheme))
        if self._allowed and not uri.startswith(self._allowed):
            raise refused(uri, f"URIs must start with one of {', '.join(self._allowed)} (EIF_STORAGE_ALLOWED_PREFIXES)")
        return store

    def _why_not(self, scheme: str) -> str:
        if scheme == "s3":
            return "this server has no S3 endpoint; set EIF_STORAGE_S3_ENDPOINT to turn s3:// on"
        if scheme == "file":
            return "this server has no folder that is open to file://; set EIF_STORAGE_FILE_ROOTS to turn it on"
        enabled = " and ".join(f"{name}://" for name in sorted(self._stores)) or "none, see EIF_STORAGE_*"
        return f"objects are named as s3://bucket/key or file:///path; enabled here: {enabled}"
