"""One S3 endpoint: its HTTP client, the requests the store makes, and its errors in the words of the store."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import certifi
import urllib3
from minio import Minio
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from urllib3.exceptions import HTTPError, ResponseError
from urllib3.util import Retry, Timeout

from services.common.errors import ServiceError
from services.common.settings import StorageSettings
from services.common.storage.base import ObjectInfo
from services.common.storage.s3_credentials import credentials_of
from services.common.storage.streams import changed, not_found
from services.common.storage.uris import S3Location, printable, refused

if TYPE_CHECKING:
    from urllib3.response import BaseHTTPResponse

CONNECT_SECONDS = 5.0
READ_SECONDS = 60.0
RETRIED_STATUS = (429, 500, 502, 503, 504)
RETRIES = 5
BACKOFF_SECONDS = 0.2
MAX_CONNECTIONS = 32

_TURNED_AWAY = {429, 503}
"""The server did nothing: what is not idempotent may be sent again too."""
_DENIED = {"AccessDenied", "InvalidAccessKeyId", "InvalidTokenId", "SignatureDoesNotMatch"}
_PASSING = {"ExpiredToken": "ExpiredToken; renew the credentials, see EIF_STORAGE_S3_CREDENTIALS_FILE"}
"""No fault of a caller, and gone with the next credentials."""
_ABSENT = {"NoSuchKey", "NoSuchBucket", "NoSuchVersion", "ResourceNotFound"}
_MISDIRECTED = {"AuthorizationHeaderMalformed", "PermanentRedirect", "Redirect", "TemporaryRedirect"}


class _Retries(Retry):
    """Also repeats a POST (of multi-part uploads) that the server turned away."""

    def is_retry(self, method: str, status_code: int, has_retry_after: bool = False) -> bool:  # noqa: FBT001, FBT002  urllib3's
        if method.upper() == "POST" and status_code in _TURNED_AWAY:
            return bool(self.total)
        return super().is_retry(method, status_code, has_retry_after)


class S3Endpoint:
    """The client of an endpoint. Thread-safe; not shared between processes.

    An endpoint that refuses connections is given up within 10 seconds, one that cannot be reached within 45, and one
    that takes requests but never answers after six times the read time-out.
    """

    def __init__(self, settings: StorageSettings) -> None:
        self.name = settings.s3_endpoint or ""
        self.pool = _pool(settings)
        self.client = Minio(
            self.name,
            credentials=credentials_of(settings),
            region=settings.s3_region,
            secure=settings.s3_secure,
            http_client=self.pool,
        )

    def head(self, location: S3Location) -> ObjectInfo:
        with self.errors(location.uri):
            found = self.client.stat_object(location.bucket, location.key)
        return ObjectInfo(uri=location.uri, size=found.size or 0, etag=found.etag or "")

    def get(
        self, location: S3Location, offset: int, length: int | None, etag: str | None
    ) -> tuple[BaseHTTPResponse, ObjectInfo] | tuple[None, None]:
        """A response whose body starts at `offset`, and the whole object; nothing when there are no bytes there."""
        condition = {} if etag is None else {"If-Match": f'"{etag}"'}
        try:
            with self.errors(location.uri):
                response = self.client.get_object(
                    location.bucket, location.key, offset=offset, length=length or 0, request_headers=dict(condition)
                )
        except _NoSuchRangeError:
            return None, None
        try:
            return response, self._described(location, response, offset)
        except ServiceError:
            response.close()
            raise

    def _described(self, location: S3Location, response: BaseHTTPResponse, offset: int) -> ObjectInfo:
        headers = response.headers
        size, start = headers.get("content-length", ""), 0
        if response.status == 206:
            found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", headers.get("content-range", ""))
            start, size = (int(found[1]), found[2]) if found else (-1, "")
        if start != offset or not size.isdigit():
            raise self.unavailable(location.uri, f"it does not answer a request for bytes from {offset} with them")
        return ObjectInfo(uri=location.uri, size=int(size), etag=headers.get("etag", "").strip('"'))

    @contextmanager
    def errors(self, uri: str) -> Iterator[None]:
        """Say what the SDK and the network say in the words of the store; nothing of a signed URL or header."""
        try:
            yield
        except S3Error as error:
            raise self._from_code(uri, error.code or "") from error
        except (MinioException, HTTPError, OSError) as error:
            raise self.unavailable(uri, _why(error)) from None  # its text may hold a signed URL
        except ValueError as error:  # the SDK's own checks of names
            raise refused(uri, str(error)) from error

    def unavailable(self, uri: str, why: str) -> ServiceError:
        """STORAGE_UNAVAILABLE."""
        shown = printable(uri)
        text = f"{shown}: the object store at {self.name} does not answer as it should: {why}"
        return ServiceError("STORAGE_UNAVAILABLE", text, uri=shown)

    def denied(self, uri: str, why: str) -> ServiceError:
        """STORAGE_DENIED."""
        shown = printable(uri)
        text = f"{shown}: the object store at {self.name} refuses access: {why}"
        return ServiceError("STORAGE_DENIED", text, uri=shown)

    def _from_code(self, uri: str, code: str) -> Exception:
        if code in _ABSENT:
            return not_found(uri)
        if code in _DENIED:
            return self.denied(uri, f"{code}; check the credentials of the service and the policy of the bucket")
        if code == "PreconditionFailed":
            return changed(uri)
        if code == "InvalidRange":
            return _NoSuchRangeError(uri)
        if code in _MISDIRECTED:
            return self.denied(uri, f"{code}; check EIF_STORAGE_S3_ENDPOINT and EIF_STORAGE_S3_REGION")
        return self.unavailable(uri, _PASSING.get(code, code) or "an error without a code")


class _NoSuchRangeError(Exception):
    """The range starts at or past the end of the object."""


def _pool(settings: StorageSettings) -> urllib3.PoolManager:
    return urllib3.PoolManager(
        timeout=Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS),
        maxsize=MAX_CONNECTIONS,
        retries=_Retries(
            total=RETRIES,
            redirect=False,
            backoff_factor=BACKOFF_SECONDS,
            backoff_jitter=BACKOFF_SECONDS,
            retry_after_max=10,
            status_forcelist=RETRIED_STATUS,
            allowed_methods={"GET", "HEAD", "PUT", "DELETE"},
        ),
        ca_certs=str(settings.s3_ca_file or certifi.where()),
    )


def _why(error: Exception) -> str:
    if isinstance(error, ServerError):
        return f"status {error.status_code}"
    if isinstance(error, InvalidResponseError):
        return "the answer is not one of S3; check EIF_STORAGE_S3_ENDPOINT"
    reason = getattr(error, "reason", None)
    if isinstance(reason, ResponseError):
        return str(reason)  # "too many 503 error responses"
    return type(reason if isinstance(reason, Exception) else error).__name__
