"""Objects in S3, spoken to with the minio SDK; nothing else in the system knows it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from services.common.settings import StorageSettings
from services.common.storage.base import ObjectInfo
from services.common.storage.s3_client import S3Endpoint
from services.common.storage.s3_create import create
from services.common.storage.s3_stream import S3Stream
from services.common.storage.streams import ObjectStream, StreamingReads, opened
from services.common.storage.uris import S3Location, parse_s3

PART_BYTES = 16 << 20
"""Larger objects are sent in parts of this size (larger ones past 10,000 parts), each repeated by itself."""


class S3Store(StreamingReads):
    """`s3://bucket/key` on one endpoint. Thread-safe; each process builds its own."""

    def __init__(self, settings: StorageSettings) -> None:
        self._endpoint = S3Endpoint(settings)

    def head(self, uri: str) -> ObjectInfo:
        return self._endpoint.head(parse_s3(uri))

    def stream(self, uri: str, *, offset: int, length: int | None, etag: str | None) -> ObjectStream:
        return S3Stream(self._endpoint, parse_s3(uri), offset=offset, length=length, etag=etag)

    def put(self, uri: str, data: bytes | Path, *, if_absent: bool = False) -> ObjectInfo:
        location = parse_s3(uri)
        with opened(data) as body, self._endpoint.errors(uri):
            size = body.seek(0, io.SEEK_END)
            body.seek(0)
            if if_absent:
                return create(self._endpoint, location, body, size)
            return self._put(location, body, size)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        # Sorted here: not every server lists in the order of S3 (SeaweedFS goes folder by folder: a/b before a-b).
        yield from sorted(self._found(prefix), key=lambda info: info.uri)

    def delete(self, uri: str) -> None:
        location = parse_s3(uri)
        with self._endpoint.errors(uri):
            self._endpoint.client.remove_object(location.bucket, location.key)

    def _found(self, prefix: str) -> Iterator[ObjectInfo]:
        start = parse_s3(prefix, prefix=True)
        with self._endpoint.errors(prefix):
            for found in self._endpoint.client.list_objects(start.bucket, prefix=start.key, recursive=True):
                if not found.is_dir and found.object_name and not found.object_name.endswith("/"):
                    uri = S3Location(bucket=start.bucket, key=found.object_name).uri
                    yield ObjectInfo(uri=uri, size=found.size or 0, etag=(found.etag or "").strip('"'))

    def _put(self, location: S3Location, body: BinaryIO, size: int) -> ObjectInfo:
        part_size = 0 if size > PART_BYTES * 10_000 else PART_BYTES
        written = self._endpoint.client.put_object(
            location.bucket, location.key, body, size, part_size=part_size, num_parallel_uploads=1
        )
        return ObjectInfo(uri=location.uri, size=size, etag=(written.etag or "").strip('"'))
