"""Reading an object to its end: what the implementations of the store share."""

from __future__ import annotations

import hashlib
import io
import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO

from services.common.errors import ServiceError
from services.common.storage.base import ObjectInfo
from services.common.storage.uris import PARTIAL_PREFIX, printable

CHUNK_BYTES = 1 << 20


class ObjectStream(io.RawIOBase):
    """The bytes of one object, or of a range of it; `info` describes the whole object."""

    info: ObjectInfo

    def readable(self) -> bool:
        return True


class StreamingReads(ABC):
    """`open`, `read` and `download` in terms of one opened stream, so that each costs one request."""

    @abstractmethod
    def stream(self, uri: str, *, offset: int, length: int | None, etag: str | None) -> ObjectStream:
        """Open an object. Raises as ObjectStore.open."""

    def open(
        self, uri: str, *, offset: int = 0, length: int | None = None, etag: str | None = None
    ) -> AbstractContextManager[BinaryIO]:
        if offset < 0 or (length is not None and length < 0):
            raise ValueError(f"offset {offset} and length {length} must not be negative")
        return io.BufferedReader(self.stream(uri, offset=offset, length=length, etag=etag), CHUNK_BYTES)

    def read(self, uri: str, *, max_bytes: int, sha256: str | None = None) -> bytes:
        with self._whole(uri, max_bytes) as stream:
            data = b"".join(chunks(stream))
        check_digest(uri, hashlib.sha256(data).hexdigest() if sha256 else "", sha256)
        return data

    def download(self, uri: str, path: Path, *, max_bytes: int, sha256: str | None = None) -> str:
        digest = hashlib.sha256()
        with self._whole(uri, max_bytes) as stream, new_file(path.parent) as partial:
            with partial.open("wb") as file:
                for chunk in chunks(stream):
                    digest.update(chunk)
                    file.write(chunk)
            check_digest(uri, digest.hexdigest(), sha256)
            partial.replace(path)
        return digest.hexdigest()

    @contextmanager
    def _whole(self, uri: str, max_bytes: int) -> Iterator[ObjectStream]:
        with self.stream(uri, offset=0, length=None, etag=None) as stream:
            check_size(uri, stream.info.size, max_bytes)
            yield stream


@contextmanager
def new_file(folder: Path) -> Iterator[Path]:
    """An empty file in `folder` under a name that no object has; gone at the end unless it was moved."""
    path = folder / f"{PARTIAL_PREFIX}{secrets.token_hex(8)}"
    path.touch(exist_ok=False)  # unlike `tempfile`, readable for whom the umask says
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def not_found(uri: str) -> ServiceError:
    """OBJECT_NOT_FOUND; says that URIs are literal where that looks like the cause."""
    shown = printable(uri)
    hint = "; URIs are taken literally, so %20 is not a space" if "%" in uri else ""
    return ServiceError("OBJECT_NOT_FOUND", f"{shown} does not exist{hint}", uri=shown)


def changed(uri: str) -> ServiceError:
    """OBJECT_CHANGED."""
    shown = printable(uri)
    return ServiceError("OBJECT_CHANGED", f"{shown} was replaced while it was in use; start again", uri=shown)


def check_size(uri: str, size: int, max_bytes: int) -> None:
    """Raise OBJECT_TOO_LARGE above the limit."""
    if size > max_bytes:
        raise ServiceError(
            "OBJECT_TOO_LARGE",
            f"{printable(uri)} has {size} bytes, which is above the limit of {max_bytes}",
            uri=printable(uri),
            size=size,
            limit=max_bytes,
        )


def check_digest(uri: str, actual: str, expected: str | None) -> None:
    """Raise OBJECT_DIGEST_MISMATCH unless the content has the sha256 it must have."""
    if expected is not None and actual != expected.lower():
        raise ServiceError(
            "OBJECT_DIGEST_MISMATCH",
            f"{printable(uri)} has sha256 {actual}, but {expected} was given: it is corrupt, or was replaced",
            uri=printable(uri),
            actual=actual,
            expected=expected,
        )


def opened(data: bytes | Path) -> BinaryIO:
    """What is to be written, as a file at its start."""
    return io.BytesIO(data) if isinstance(data, bytes) else data.open("rb")


def chunks(stream: io.RawIOBase | BinaryIO) -> Iterator[bytes]:
    """What is left of a stream."""
    while chunk := stream.read(CHUNK_BYTES):
        yield chunk
