"""What every object store does: the same suite on the local store, on S3, and on a store that is measured."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from services.common.errors import ServiceError
from services.common.storage.base import ObjectInfo
from tests.stores import Place, local_place, s3_place

LARGE = 20 * 1000 * 1000 + 7
MISSING = "OBJECT_NOT_FOUND"


@pytest.fixture(params=["local", "s3", "metered"])
def place(request: pytest.FixtureRequest) -> Place:
    if request.param == "s3":
        return s3_place(request.getfixturevalue("weed"))
    place = local_place(request.getfixturevalue("tmp_path") / "root")
    return replace(place, metered=request.param == "metered")


def reason_of(call: Callable[[], object]) -> str:
    with pytest.raises(ServiceError) as caught:
        call()
    return caught.value.reason


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_what_is_put_is_read_and_described(place: Place) -> None:
    uri = place.uri("folder/name.bin")
    written = place.store.put(uri, b"content")

    assert place.store.read(uri, max_bytes=7) == b"content"
    assert place.store.head(uri) == written == ObjectInfo(uri=uri, size=7, etag=written.etag)
    assert written.etag


def test_a_put_replaces_and_changes_the_etag(place: Place) -> None:
    uri = place.uri("name")
    first = place.store.put(uri, b"first")
    second = place.store.put(uri, b"other")

    assert place.store.read(uri, max_bytes=10) == b"other"
    assert first.etag != second.etag == place.store.head(uri).etag


def test_an_empty_object_is_an_object(place: Place) -> None:
    uri = place.uri("empty")
    assert place.store.put(uri, b"").size == 0
    assert place.store.head(uri).size == 0
    assert place.store.read(uri, max_bytes=0) == b""
    assert [info.uri for info in place.store.list(place.uri(""))] == [uri]
    with place.store.open(uri, length=5) as stream:
        assert stream.read() == b""


def test_a_file_is_put_and_downloaded(place: Place, tmp_path: Path) -> None:
    data, source, copy = noise(300_000), tmp_path / "source", tmp_path / "copy"
    source.write_bytes(data)

    assert place.store.put(place.uri("file"), source).size == len(data)
    assert place.store.download(place.uri("file"), copy, max_bytes=len(data), sha256=sha256(data)) == sha256(data)
    assert copy.read_bytes() == data


@pytest.mark.parametrize("if_absent", [False, True])
def test_a_large_object_survives_in_one_piece(place: Place, tmp_path: Path, if_absent: bool) -> None:
    data, source = noise(LARGE), tmp_path / "large"
    source.write_bytes(data)
    uri = place.uri("large")

    info = place.store.put(uri, source, if_absent=if_absent)

    assert info == place.store.head(uri)
    assert place.store.download(uri, tmp_path / "copy", max_bytes=LARGE) == sha256(data)
    with place.store.open(uri, offset=LARGE - 10, etag=info.etag) as stream:
        assert stream.read() == data[-10:]


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [
        (0, None, b"0123456789"),
        (3, None, b"3456789"),
        (3, 4, b"3456"),
        (0, 1, b"0"),
        (8, 100, b"89"),
        (10, None, b""),
        (11, 5, b""),
        (4, 0, b""),
    ],
)
def test_ranges(place: Place, offset: int, length: int | None, expected: bytes) -> None:
    uri = place.uri("digits")
    etag = place.store.put(uri, b"0123456789").etag
    for known in (None, etag):
        with place.store.open(uri, offset=offset, length=length, etag=known) as stream:
            assert stream.read() == expected


def test_a_stream_is_read_in_small_pieces(place: Place) -> None:
    data, uri = noise(100_000), place.uri("pieces")
    place.store.put(uri, data)
    with place.store.open(uri, offset=1) as stream:
        pieces = list(iter(lambda: stream.read(999), b""))
    assert b"".join(pieces) == data[1:]
    assert {len(piece) for piece in pieces[:-1]} == {999}


def test_a_stream_left_in_the_middle_leaves_the_store_usable(place: Place) -> None:
    uri = place.uri("large")
    place.store.put(uri, noise(3_000_000))
    store = place.store
    for _ in range(40):  # more than the connections that a store keeps
        with store.open(uri) as stream:
            assert stream.read(1) == noise(3_000_000)[:1]
    assert store.head(uri).size == 3_000_000


@pytest.mark.parametrize("length", [None, 0, 2])
def test_another_etag_is_refused_at_once(place: Place, length: int | None) -> None:
    uri = place.uri("name")
    old = place.store.put(uri, b"first").etag
    place.store.put(uri, b"second")

    def read() -> None:
        with place.store.open(uri, etag=old, length=length) as stream:
            stream.read()

    assert reason_of(read) == "OBJECT_CHANGED"


def test_a_replaced_object_is_never_read_as_a_mixture(place: Place) -> None:
    old, new, uri = noise(6_000_000, 1), noise(6_000_000, 2), place.uri("name")
    place.store.put(uri, old)
    with place.store.open(uri) as stream:
        head = stream.read(100_000)
        place.store.put(uri, new)
        try:
            whole = head + stream.read()
        except ServiceError as error:
            assert error.reason == "OBJECT_CHANGED"  # noqa: PT017  either outcome is right
        else:
            assert whole == old


@pytest.mark.parametrize("key", ["missing", "folder", "folder/name/below"])
def test_what_is_not_there(place: Place, tmp_path: Path, key: str) -> None:
    place.store.put(place.uri("folder/name"), b"")
    store, uri = place.store, place.uri(key)

    assert reason_of(lambda: store.head(uri)) == MISSING
    assert reason_of(lambda: store.open(uri)) == MISSING
    assert reason_of(lambda: store.read(uri, max_bytes=9)) == MISSING
    assert reason_of(lambda: store.download(uri, tmp_path / "copy", max_bytes=9)) == MISSING
    assert not (tmp_path / "copy").exists()
    with pytest.raises(ServiceError, match="does not exist") as caught:
        store.head(uri)
    assert caught.value.metadata["uri"] == uri


def test_too_large_is_refused_before_it_is_read(place: Place, tmp_path: Path) -> None:
    uri = place.uri("large")
    place.store.put(uri, noise(1001))

    with pytest.raises(ServiceError, match="1001 bytes, which is above the limit of 1000") as caught:
        place.store.read(uri, max_bytes=1000)
    assert caught.value.reason == "OBJECT_TOO_LARGE"
    assert reason_of(lambda: place.store.download(uri, tmp_path / "copy", max_bytes=1000)) == "OBJECT_TOO_LARGE"
    assert list(tmp_path.glob("copy*")) == []


def test_another_digest_is_refused_and_leaves_no_file(place: Place, tmp_path: Path) -> None:
    uri, right, wrong = place.uri("name"), sha256(b"content"), sha256(b"other")
    place.store.put(uri, b"content")
    copy = tmp_path / "scratch" / "copy"
    copy.parent.mkdir()

    assert place.store.read(uri, max_bytes=9, sha256=right.upper()) == b"content"
    assert reason_of(lambda: place.store.read(uri, max_bytes=9, sha256=wrong)) == "OBJECT_DIGEST_MISMATCH"
    assert reason_of(lambda: place.store.download(uri, copy, max_bytes=9, sha256=wrong)) == "OBJECT_DIGEST_MISMATCH"
    assert list(copy.parent.iterdir()) == []


def test_a_conditional_put_creates_once(place: Place) -> None:
    uri = place.uri("name")
    assert place.store.put(uri, b"first", if_absent=True) == place.store.head(uri)
    assert reason_of(lambda: place.store.put(uri, b"second", if_absent=True)) == "OBJECT_EXISTS"
    assert place.store.read(uri, max_bytes=9) == b"first"


def test_of_many_conditional_writers_exactly_one_wins(place: Place) -> None:
    def attempt(uri: str, number: int) -> int | None:
        try:
            place.store.put(uri, f"writer {number}".encode() * 1000, if_absent=True)
        except ServiceError as error:
            assert error.reason == "OBJECT_EXISTS"  # noqa: PT017  losing is right
            return None
        return number

    with ThreadPoolExecutor(8) as pool:
        for turn in range(5):
            uri = place.uri(f"turn-{turn}")
            winners = [number for number in pool.map(attempt, [uri] * 8, range(8)) if number is not None]
            assert len(winners) == 1
            assert place.store.read(uri, max_bytes=1 << 20) == f"writer {winners[0]}".encode() * 1000


def test_delete_is_idempotent(place: Place) -> None:
    uri, other = place.uri("name"), place.uri("name/below") if place.base.startswith("s3") else place.uri("other")
    place.store.put(uri, b"content")
    place.store.put(other, b"stays")

    place.store.delete(uri)
    place.store.delete(uri)
    place.store.delete(place.uri("never/was"))

    assert [info.uri for info in place.store.list(place.uri(""))] == [other]


def test_deleting_a_folder_keeps_what_is_in_it(place: Place) -> None:
    place.store.put(place.uri("folder/name"), b"content")
    place.store.delete(place.uri("folder"))
    assert place.store.read(place.uri("folder/name"), max_bytes=9) == b"content"


def test_a_listing_is_in_the_order_of_the_uris(place: Place) -> None:
    keys = ["a-b", "a.txt", "a/c", "a/d/e", "a0", "ab/1", "Z", "é", "a/c0", "a/d-e", "\uffee", "\U0001f600"]
    for key in keys:
        place.store.put(place.uri(key), key.encode())

    found = list(place.store.list(place.uri("")))

    assert [info.uri for info in found] == sorted(place.uri(key) for key in keys)
    assert all(info == place.store.head(info.uri) for info in found)


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("run", ["run-2/c", "run/a", "run/b"]),
        ("run/", ["run/a", "run/b"]),
        ("run/b", ["run/b"]),
        ("run/b/", []),
        ("nothing", []),
        ("no/thing/here", []),
    ],
)
def test_a_prefix_may_end_anywhere(place: Place, prefix: str, expected: list[str]) -> None:
    for key in ("run/a", "run/b", "run-2/c", "other/d"):
        place.store.put(place.uri(key), b"")
    assert [info.uri for info in place.store.list(place.uri(prefix))] == [place.uri(key) for key in expected]


def test_a_long_listing_is_complete(place: Place) -> None:
    count = 1203 if place.base.startswith("file") else 1050  # above the page of S3
    keys = [f"many/{number:05d}" for number in range(count)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda batch: [place.store.put(place.uri(key), b"x") for key in batch], batched_keys(keys)))

    found = [info.uri for info in place.store.list(place.uri("many/"))]

    assert found == [place.uri(key) for key in keys]
    assert all(first < second for first, second in pairwise(found))


@pytest.mark.parametrize(
    "name",
    [
        "a b",
        " a",
        "a ",
        "a+b",
        "a%20b",
        "ü",
        "e\u0301",
        "日本語.png",
        "a#b",
        "a&b=c",
        "a;b",
        "a:b@c",
        "a'b\"c",
        "~a",
        "😀",
    ],
)
def test_names_are_taken_literally(place: Place, name: str) -> None:
    uri = place.uri(f"folder/{name}/{name}")
    place.store.put(uri, name.encode(), if_absent=True)

    assert place.store.read(uri, max_bytes=100) == name.encode()
    assert [info.uri for info in place.store.list(place.uri("folder/"))] == [uri]
    assert [info.uri for info in place.store.list(uri)] == [uri]
    place.store.delete(uri)
    assert list(place.store.list(place.uri(""))) == []


@pytest.mark.parametrize(
    "key",
    ["../x", "a/../b", "./x", "a//b", "a/", "", "a\nb", "a\x00b", "a?versionId=1", "a\\b", "a\u2028b", "x" * 3000],
)
def test_keys_that_are_refused(place: Place, key: str) -> None:
    uri, store = place.uri(key), place.store
    assert reason_of(lambda: store.head(uri)) == "URI_NOT_ALLOWED"
    assert reason_of(lambda: store.put(uri, b"")) == "URI_NOT_ALLOWED"
    assert reason_of(lambda: store.delete(uri)) == "URI_NOT_ALLOWED"
    with pytest.raises(ServiceError) as caught:
        store.read(uri, max_bytes=1)
    assert caught.value.message.isprintable()
    assert place.base in caught.value.message


def test_many_readers_at_once(place: Place) -> None:
    contents = {place.uri(f"object-{number}"): noise(200_000 + number, number) for number in range(8)}
    store = place.store
    for uri, data in contents.items():
        store.put(uri, data)

    def read(uri: str) -> bool:
        return store.read(uri, max_bytes=1 << 20, sha256=sha256(contents[uri])) == contents[uri]

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(read, list(contents) * 8))


def test_a_file_that_cannot_be_read_is_no_fault_of_the_store(place: Place, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        place.store.put(place.uri("name"), tmp_path / "missing")
    assert list(place.store.list(place.uri(""))) == []


def batched_keys(keys: list[str]) -> list[list[str]]:
    return [keys[start : start + 100] for start in range(0, len(keys), 100)]
