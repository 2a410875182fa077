"""Conditional create on S3: one writer wins, whatever the network does."""

from __future__ import annotations

import hashlib
import io
import random
import time
from datetime import timedelta
from typing import BinaryIO

from urllib3.exceptions import HTTPError

from services.common.errors import ServiceError
from services.common.storage.base import ObjectInfo
from services.common.storage.s3_client import BACKOFF_SECONDS, RETRIED_STATUS, RETRIES, S3Endpoint
from services.common.storage.s3_stream import S3Stream
from services.common.storage.streams import check_size, chunks
from services.common.storage.uris import S3Location, printable

MAX_CREATE_BYTES = 5 << 30
"""What S3 takes in one request; a conditional create is one request."""

_CONFLICT = 409
"""Another conditional write of the same key is under way."""


def create(endpoint: S3Endpoint, location: S3Location, body: BinaryIO, size: int) -> ObjectInfo:
    """PUT with `If-None-Match: *`, which the SDK has no argument for: hence a presigned URL.

    Raises:
        ServiceError: OBJECT_EXISTS, OBJECT_TOO_LARGE above 5 GiB, and those of the endpoint.
    """
    check_size(location.uri, size, MAX_CREATE_BYTES)
    in_doubt = False
    for attempt in range(RETRIES + 1):
        time.sleep(random.uniform(0.5, 1.5) * BACKOFF_SECONDS * 2 ** (attempt - 1) if attempt else 0)
        body.seek(0)
        status, etag = _put_if_absent(endpoint, location, body, size)
        if status in {200, 201, 204}:
            return ObjectInfo(uri=location.uri, size=size, etag=etag or endpoint.head(location).etag)
        if status == 412:
            return _existing(endpoint, location, body, in_doubt=in_doubt)
        if status == 403:
            raise endpoint.denied(location.uri, "it may not be written; check the policy of the bucket")
        if status == 404:
            raise ServiceError("OBJECT_NOT_FOUND", f"{printable(location.uri)}: there is no such bucket")
        if status not in {_CONFLICT, 0, *RETRIED_STATUS}:
            break
        in_doubt = in_doubt or status not in {_CONFLICT, 429, 503}
    raise endpoint.unavailable(location.uri, f"status {status}" if status else "the connection failed again and again")


def _put_if_absent(endpoint: S3Endpoint, location: S3Location, body: BinaryIO, size: int) -> tuple[int, str]:
    """Status and etag; status 0 when there was no answer."""
    url = endpoint.client.get_presigned_url("PUT", location.bucket, location.key, expires=timedelta(hours=1))
    headers = {"If-None-Match": "*", "Content-Length": str(size), "Content-Type": "application/octet-stream"}
    try:
        response = endpoint.pool.request("PUT", url, body=body, headers=headers, retries=False)
    except HTTPError:
        return 0, ""
    return response.status, response.headers.get("etag", "").strip('"')


def _existing(endpoint: S3Endpoint, location: S3Location, body: BinaryIO, *, in_doubt: bool) -> ObjectInfo:
    """Who won: after a request without an answer, it may have been that request."""
    if in_doubt:
        with S3Stream(endpoint, location, offset=0, length=None, etag=None) as found:
            body.seek(0)
            if _digest(found) == _digest(body):
                return found.info
    raise ServiceError("OBJECT_EXISTS", f"{printable(location.uri)} exists already", uri=printable(location.uri))


def _digest(stream: io.RawIOBase | BinaryIO) -> bytes:
    digest = hashlib.sha256()
    for chunk in chunks(stream):
        digest.update(chunk)
    return digest.digest()
