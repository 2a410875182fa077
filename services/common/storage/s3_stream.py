"""The body of an S3 object, which goes on where a broken connection left off."""

from __future__ import annotations

import random
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from urllib3.exceptions import HTTPError

from services.common.errors import ServiceError
from services.common.storage.base import ObjectInfo
from services.common.storage.s3_client import BACKOFF_SECONDS, S3Endpoint
from services.common.storage.streams import ObjectStream, changed
from services.common.storage.uris import S3Location

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from urllib3.response import BaseHTTPResponse

MAX_BREAKS = 5
"""Connections that may break one after the other without a byte in between."""


class S3Stream(ObjectStream):
    """Bytes `offset` to `end` of an object. What is read after a break is asked for by `If-Match`: the same content."""

    def __init__(
        self, endpoint: S3Endpoint, location: S3Location, *, offset: int, length: int | None, etag: str | None
    ) -> None:
        super().__init__()
        self._endpoint, self._location = endpoint, location
        self._breaks = 0
        self._response, self.info = _first_response(endpoint, location, offset, length, etag)
        self._position = min(offset, self.info.size)
        self._end = self.info.size if length is None else min(self._position + length, self.info.size)

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        with memoryview(buffer).cast("B") as view:
            wanted = min(len(view), self._end - self._position)
            data = b""
            while wanted and not data:
                data = self._read(wanted)
            view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._drop()
        super().close()

    def _read(self, size: int) -> bytes:
        """Some bytes; none when the connection broke and was made again."""
        if self._response is not None:
            with suppress(HTTPError, OSError):
                # read1 hands over what has come, where read would lose it when the connection breaks before `size`.
                # Not decoded: an object that was stored with `Content-Encoding: gzip` is what was stored.
                data = self._response.read1(size, decode_content=False)
                if data:
                    self._breaks = 0
                    return data
        self._reconnect()
        return b""

    def _reconnect(self) -> None:
        self._drop()
        self._breaks += 1
        if self._breaks > MAX_BREAKS or not self.info.etag:
            raise self._endpoint.unavailable(self.info.uri, f"the connection broke at byte {self._position}")
        time.sleep(random.uniform(0.5, 1.5) * BACKOFF_SECONDS * 2 ** (self._breaks - 1))
        try:
            rest = self._end - self._position
            self._response, info = self._endpoint.get(self._location, self._position, rest, self.info.etag)
        except ServiceError as error:
            raise changed(self.info.uri) if error.reason == "OBJECT_NOT_FOUND" else error from error
        if info != self.info:
            raise changed(self.info.uri)

    def _drop(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response.release_conn()
            self._response = None


def _first_response(
    endpoint: S3Endpoint, location: S3Location, offset: int, length: int | None, etag: str | None
) -> tuple[BaseHTTPResponse | None, ObjectInfo]:
    """The response with the bytes, or none where S3 has no answer for an empty range."""
    if length != 0:
        response, info = endpoint.get(location, offset, length, etag)
        if info is not None:
            return response, info
    info = endpoint.head(location)
    if etag is not None and info.etag != etag:
        raise changed(location.uri)
    return None, info
