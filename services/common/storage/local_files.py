"""One file as an object: its tag, its bytes, and its errors in the words of the store."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from services.common.errors import ServiceError
from services.common.storage.base import ObjectInfo
from services.common.storage.streams import ObjectStream, changed, not_found
from services.common.storage.uris import printable, refused

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_ABSENT = {errno.ENOENT, errno.ENOTDIR}


class FileStream(ObjectStream):
    """A range of a regular file. At its end it makes sure that the file is still the one that was opened."""

    def __init__(self, uri: str, path: Path, *, offset: int, length: int | None, etag: str | None) -> None:
        super().__init__()
        self._uri, self._path = uri, path
        # O_NONBLOCK: opening a named pipe must not wait for a writer. O_NOFOLLOW: `path` is resolved already.
        self._file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        found = os.fstat(self._file)
        self.info = info_of(uri, found)
        if not stat.S_ISREG(found.st_mode):
            self.close()
            raise not_found(uri)
        if etag is not None and etag != self.info.etag:
            self.close()
            raise changed(uri)
        self._position = min(offset, self.info.size)
        self._end = self.info.size if length is None else min(self._position + length, self.info.size)

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        with memoryview(buffer).cast("B") as view:
            wanted = min(len(view), self._end - self._position)
            count = os.preadv(self._file, [view[:wanted]], self._position) if wanted else 0
        self._position += count
        if self._position == self._end or not count:
            self._check_unchanged()
        return count

    def close(self) -> None:
        if not self.closed:
            os.close(self._file)
        super().close()

    def _check_unchanged(self) -> None:
        with file_errors(self._uri):
            try:
                now = info_of(self._uri, self._path.stat())
            except FileNotFoundError:
                raise changed(self._uri) from None
        if now != self.info or self._position < self._end:
            raise changed(self._uri)


def info_of(uri: str, found: os.stat_result) -> ObjectInfo:
    """The tag is new with every content: a rename brings another inode, a write in place another time."""
    return ObjectInfo(uri=uri, size=found.st_size, etag=f"{found.st_ino:x}-{found.st_mtime_ns:x}-{found.st_size:x}")


@contextmanager
def file_errors(uri: str) -> Iterator[None]:
    """Say what the operating system says in the words of the store."""
    try:
        yield
    except OSError as error:
        raise _translated(uri, error) from error


def _translated(uri: str, error: OSError) -> ServiceError:
    shown, why = printable(uri), error.strerror or type(error).__name__
    if error.errno in _ABSENT:
        return not_found(uri)
    if error.errno in _DENIED:
        return ServiceError("STORAGE_DENIED", f"{shown} cannot be accessed by the service: {why}", uri=shown)
    if error.errno == errno.EISDIR:
        return refused(uri, "there is a folder of that name; an object is a file")
    if error.errno == errno.ENAMETOOLONG:
        return refused(uri, "the file system does not take names of that length")
    return ServiceError("STORAGE_UNAVAILABLE", f"{shown} cannot be accessed now: {why}", uri=shown)
