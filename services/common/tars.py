"""Members of WebDataset tars: a tar is downloaded once, and its rows read from the copy by offset."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Condition, Lock

from services.common.errors import ServiceError
from services.common.sample_limits import SampleLimits
from services.common.storage.base import ObjectStore
from services.common.storage.streams import check_digest, check_size
from services.common.storage.uris import printable
from services.common.tar_index import Member, index_tar, member_key


class _Tar:
    """A tar on disk, or why there is none. `users` and `size` belong to the cache's lock, the rest to its own."""

    def __init__(self, path: Path) -> None:
        self.lock = Lock()
        self.path = path
        self.users = 0
        self.size = 0
        self.members: dict[str, Member] | None = None
        self.file = -1
        self.fault: ServiceError | None = None

    def close(self) -> None:
        """Let go of the file."""
        if self.file >= 0:
            os.close(self.file)
            self.file = -1


class TarCache:
    """Tars in a folder, `max_scratch_bytes` of them at a time; thread-safe. The folder's owner empties it."""

    def __init__(self, store: ObjectStore, folder: Path, limits: SampleLimits) -> None:
        self._store, self._folder, self._limits = store, folder, limits
        self._tars: OrderedDict[str, _Tar] = OrderedDict()
        self._changed = Condition()
        self._count = 0

    def close(self) -> None:
        """Let go of the files. Nobody reads any more."""
        for tar in self._tars.values():
            tar.close()

    def read(self, uri: str, name: str, *, sha256: str | None = None) -> bytes:
        """The bytes of a member.

        Raises:
            ServiceError: OBJECT_NOT_FOUND (the tar or the member), ARCHIVE_INVALID (not a tar, or the member is no
                plain file), OBJECT_TOO_LARGE, OBJECT_DIGEST_MISMATCH, and those of the store.
        """
        with self._leased(uri) as tar:
            data = self._member(tar, uri, name)
        shown = f"{uri}#{name}"
        check_digest(shown, hashlib.sha256(data).hexdigest() if sha256 else "", sha256)
        return data

    def _member(self, tar: _Tar, uri: str, name: str) -> bytes:
        member = (tar.members or {}).get(member_key(name))
        shown = f"{printable(name)} in {printable(uri)}"
        if member is None:
            raise ServiceError("OBJECT_NOT_FOUND", f"there is no {shown}", uri=printable(uri), member=printable(name))
        if member.size is None:
            raise ServiceError("ARCHIVE_INVALID", f"{shown} is a link or folder, not a file", uri=printable(uri))
        check_size(f"{uri}#{name}", member.size, self._limits.max_sample_bytes)
        return os.pread(tar.file, member.size, member.offset)

    @contextmanager
    def _leased(self, uri: str) -> Iterator[_Tar]:
        """The tar, loaded, and safe from eviction while it is used."""
        with self._changed:
            tar = self._tars.get(uri) or self._new(uri)
            self._tars.move_to_end(uri)
            tar.users += 1
        try:
            with tar.lock:
                if tar.members is None and tar.fault is None:
                    self._load(uri, tar)
            if tar.fault is not None:
                raise ServiceError(tar.fault.reason, tar.fault.message, **tar.fault.metadata)
            yield tar
        finally:
            with self._changed:
                tar.users -= 1
                self._changed.notify_all()

    def _new(self, uri: str) -> _Tar:
        self._count += 1
        self._tars[uri] = _Tar(self._folder / f"{self._count}.tar")
        return self._tars[uri]

    def _load(self, uri: str, tar: _Tar) -> None:
        """Download and index. A fault of the tar stays, so that its other rows do not try again; an outage does not."""
        try:
            size = self._store.head(uri).size
            check_size(uri, size, min(self._limits.max_tar_bytes, self._limits.max_scratch_bytes))
            self._reserve(tar, size)
            self._store.download(uri, tar.path, max_bytes=size)
            members = index_tar(tar.path, uri)
            tar.file = os.open(tar.path, os.O_RDONLY | os.O_CLOEXEC)  # once, not for each member
            tar.members = members
        except ServiceError as error:
            tar.path.unlink(missing_ok=True)
            self._reserve(tar, 0)
            if error.reason == "STORAGE_UNAVAILABLE":
                raise
            tar.fault = error

    def _reserve(self, tar: _Tar, size: int) -> None:
        """Wait until `size` bytes fit. Whoever waits holds nothing on disk, so those who hold something go on."""
        with self._changed:
            tar.size = 0
            self._changed.wait_for(lambda: self._evict(size))
            tar.size = size
            self._changed.notify_all()

    def _evict(self, size: int) -> bool:
        """Remove unused tars, least recently used first, until `size` bytes fit; whether they do."""
        room = self._limits.max_scratch_bytes - sum(tar.size for tar in self._tars.values())
        for uri, tar in list(self._tars.items()):
            if room >= size:
                break
            if not tar.users and tar.size:
                tar.close()
                tar.path.unlink(missing_ok=True)
                del self._tars[uri]
                room += tar.size
        return room >= size
