"""URIs of objects: how they are written, and what is refused before anything is opened.

A URI is taken literally: `%20` is three characters, not a space, so that a key reads the same in a manifest, a log and
a listing. `?` never occurs, so that a presigned URL is never mistaken for a key.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from services.common.errors import ServiceError

MAX_URI_LENGTH = 2048
PARTIAL_PREFIX = ".eif-partial-"
"""Files that are being written start with this name; they are never objects."""

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_MAX_KEY_BYTES = 1024


@dataclass(frozen=True, kw_only=True)
class S3Location:
    """A key of a bucket. The key of a prefix may be empty or end with a slash."""

    bucket: str
    key: str

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


def scheme_of(uri: str) -> str:
    """The scheme in lower case, or the empty string. Refuses what no scheme allows."""
    _check_characters(uri)
    scheme, separator, _ = uri.partition("://")
    return scheme if separator else ""


def parse_s3(uri: str, *, prefix: bool = False) -> S3Location:
    """Bucket and key of `s3://bucket/key`; with `prefix`, of the start of a URI up to any character of the key."""
    _check_characters(uri)
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if "@" in bucket:
        raise refused(uri, "credentials and endpoints are configuration of the server, not part of a URI")
    if not _BUCKET.fullmatch(bucket) or ".." in bucket:
        raise refused(uri, "the bucket must be 3 to 63 of a-z, 0-9, '.', '-', as in s3://bucket/key")
    if len(key.encode()) > _MAX_KEY_BYTES:
        raise refused(uri, f"the key is longer than {_MAX_KEY_BYTES} bytes")
    _check_segments(uri, key, prefix=prefix)
    return S3Location(bucket=bucket, key=key)


def parse_file(uri: str, *, prefix: bool = False) -> Path:
    """Path of `file:///path`; with `prefix`, the path up to any character of it."""
    _check_characters(uri)
    path = uri.removeprefix("file://")
    if not path.startswith("/"):
        raise refused(uri, "a file URI has an absolute path and no host, as in file:///folder/name")
    _check_segments(uri, path[1:], prefix=prefix)
    return Path(path)


def file_uri(path: Path) -> str:
    """The URI of an absolute path, literal (unlike `Path.as_uri`, which escapes characters)."""
    return f"file://{path.as_posix()}"


def refused(uri: str, why: str) -> ServiceError:
    """URI_NOT_ALLOWED that names the URI, safe to print, and says what is allowed."""
    shown = printable(uri)
    return ServiceError("URI_NOT_ALLOWED", f"{shown} is not allowed: {why}", uri=shown)


def printable(uri: str) -> str:
    """The URI for people: short, without control characters, user and password."""
    text = "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in uri[:MAX_URI_LENGTH])
    text = re.sub(r"//[^/]*@", "//***@", text)
    text = text.partition("?")[0] + ("?***" if "?" in text else "")
    return text if len(text) <= 300 else f"{text[:300]}..."


def _check_characters(uri: str) -> None:
    if len(uri) > MAX_URI_LENGTH:
        raise refused(uri, f"it is longer than {MAX_URI_LENGTH} characters")
    if any(unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"} for char in uri):
        raise refused(uri, "it has control characters")
    if "?" in uri:
        raise refused(uri, "query strings and presigned URLs are not accepted; name the object as s3://bucket/key")
    if "\\" in uri:
        raise refused(uri, "it has a backslash")


def _check_segments(uri: str, key: str, *, prefix: bool) -> None:
    segments = key.split("/")
    inner = segments[:-1] if prefix else segments
    if any(segment in {".", ".."} for segment in segments):
        raise refused(uri, "it has a '.' or '..' segment")
    if any(not segment for segment in inner):
        what = "an empty segment (two slashes in a row)" if all(segments[-1:]) else "no name after its last slash"
        raise refused(uri, f"it has {what}; an object is named as in s3://bucket/folder/name")
    if any(segment.startswith(PARTIAL_PREFIX) for segment in segments):
        raise refused(uri, f"names that start with {PARTIAL_PREFIX} are reserved for objects being written")
