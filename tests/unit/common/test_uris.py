from __future__ import annotations

from pathlib import Path

import pytest

from services.common.errors import ServiceError
from services.common.storage.uris import S3Location, file_uri, parse_file, parse_s3, printable, scheme_of


@pytest.mark.parametrize(
    ("uri", "bucket", "key"),
    [
        ("s3://bucket/key", "bucket", "key"),
        ("s3://my-bucket.eu/a/b c/ü.png", "my-bucket.eu", "a/b c/ü.png"),
        ("s3://bucket/a%20b#c", "bucket", "a%20b#c"),
    ],
)
def test_bucket_and_key(uri: str, bucket: str, key: str) -> None:
    location = parse_s3(uri)
    assert location == S3Location(bucket=bucket, key=key)
    assert location.uri == uri


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("s3:///key", "the bucket must be"),
        ("s3://", "the bucket must be"),
        ("s3://bucket", "no name after its last slash"),
        ("s3://bucket/", "no name after its last slash"),
        ("s3://b/key", "the bucket must be"),
        ("s3://Bucket/key", "the bucket must be"),
        ("s3://bu..ket/key", "the bucket must be"),
        ("s3://bucket:9000/key", "the bucket must be"),
        ("s3://user:password@bucket/key", "configuration of the server"),
        ("s3://bucket/a/../b", "'..' segment"),
        ("s3://bucket/..", "'..' segment"),
        ("s3://bucket/./b", "'.' or '..' segment"),
        ("s3://bucket//b", "two slashes in a row"),
        ("s3://bucket/a/", "no name after its last slash"),
        ("s3://bucket/key?X-Amz-Signature=abc", "query strings and presigned URLs"),
        ("s3://bucket/a\tb", "control characters"),
        ("s3://bucket/a\x7fb", "control characters"),
        ("s3://bucket/\udcff", "control characters"),
        ("s3://bucket/a\\b", "backslash"),
        ("s3://bucket/" + "ü" * 600, "longer than 1024 bytes"),
        ("s3://bucket/" + "x" * 2048, "longer than 2048 characters"),
        ("s3://bucket/a/.eif-partial-1", "reserved"),
    ],
)
def test_s3_uris_that_are_refused(uri: str, why: str) -> None:
    with pytest.raises(ServiceError) as caught:
        parse_s3(uri)
    assert caught.value.reason == "URI_NOT_ALLOWED"
    assert why in caught.value.message
    assert caught.value.message.startswith(caught.value.metadata["uri"])


def test_a_prefix_may_end_in_a_slash_or_be_a_bucket() -> None:
    assert parse_s3("s3://bucket/a/", prefix=True).key == "a/"
    assert parse_s3("s3://bucket/", prefix=True).key == ""
    with pytest.raises(ServiceError, match="two slashes"):
        parse_s3("s3://bucket/a//b", prefix=True)


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("file://host/path", "no host"),
        ("file://relative", "no host"),
        ("file:///a/../b", "'..' segment"),
        ("file:///a//b", "two slashes"),
        ("file:///a/b?x=y", "query strings"),
        ("file:///", "no name"),
    ],
)
def test_file_uris_that_are_refused(uri: str, why: str) -> None:
    with pytest.raises(ServiceError, match="is not allowed") as caught:
        parse_file(uri)
    assert caught.value.reason == "URI_NOT_ALLOWED"
    assert why in caught.value.message


@pytest.mark.parametrize("path", ["/a/b", "/a b/ü%20#.png"])
def test_a_file_uri_is_literal(path: str) -> None:
    assert parse_file(file_uri(Path(path))) == Path(path)


@pytest.mark.parametrize(
    ("uri", "scheme"),
    [("s3://b/k", "s3"), ("file:///x", "file"), ("http://h/x", "http"), ("/path", ""), ("", ""), ("S3://b/k", "S3")],
)
def test_scheme(uri: str, scheme: str) -> None:
    assert scheme_of(uri) == scheme


def test_what_is_shown_has_no_secrets_and_no_control_characters() -> None:
    assert printable("s3://user:secret@host/key") == "s3://***@host/key"
    assert printable("s3://bucket/key?X-Amz-Signature=secret") == "s3://bucket/key?***"
    assert printable("s3://bucket/a\nb\x00") == "s3://bucket/a\\x0ab\\x00"
    assert len(printable("s3://bucket/" + "x" * 5000)) == 303
