"""The S3 store on a bad day: broken connections, errors, lies, credentials that do not fit."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.common.errors import ServiceError
from services.common.settings import StorageSettings
from services.common.storage.router import open_store
from services.common.storage.s3_client import RETRIES
from services.common.storage.s3_stream import MAX_BREAKS
from tests.s3_proxy import Fault, S3Proxy
from tests.stores import Place, s3_place
from tests.weed import READER, Keys, Weed, free_ports

SIZE = 3_000_000
DATA = random.Random(5).randbytes(SIZE)


@pytest.fixture
def proxy(weed: Weed) -> Iterator[S3Proxy]:
    with S3Proxy(weed) as running:
        yield running


@pytest.fixture
def place(weed: Weed, proxy: S3Proxy) -> Place:
    """Reached through the proxy."""
    return s3_place(weed, endpoint=proxy.endpoint)


def refused(call: Callable[[], object]) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        call()
    return caught.value


def test_a_broken_body_is_resumed_where_it_broke(place: Place, proxy: S3Proxy, tmp_path: Path) -> None:
    uri = place.uri("name")
    place.store.put(uri, DATA)
    proxy.faults += [Fault(cut_after=1_000_000), Fault(cut_after=0), Fault(cut_after=1)]

    place.store.download(uri, tmp_path / "copy", max_bytes=SIZE)

    assert (tmp_path / "copy").read_bytes() == DATA
    assert not proxy.faults
    assert proxy.methods().count("GET") == 4


def test_a_broken_range_is_resumed_within_the_range(place: Place, proxy: S3Proxy) -> None:
    uri = place.uri("name")
    etag = place.store.put(uri, DATA).etag
    proxy.faults += [Fault(cut_after=500_000)]
    with place.store.open(uri, offset=1_000_000, length=1_000_000, etag=etag) as stream:
        assert stream.read() == DATA[1_000_000:2_000_000]
    assert not proxy.faults


def test_an_object_replaced_during_a_break_is_noticed(place: Place, proxy: S3Proxy) -> None:
    uri = place.uri("name")
    place.store.put(uri, DATA)
    proxy.faults += [Fault(cut_after=1_000_000)]
    with place.store.open(uri) as stream:
        stream.read(10)
        place.store.put(uri, DATA[::-1])
        assert refused(stream.read).reason == "OBJECT_CHANGED"


def test_an_object_deleted_during_a_break_is_noticed(place: Place, proxy: S3Proxy) -> None:
    uri = place.uri("name")
    place.store.put(uri, DATA)
    proxy.faults += [Fault(cut_after=1_000_000)]
    with place.store.open(uri) as stream:
        stream.read(10)
        place.store.delete(uri)
        assert refused(stream.read).reason == "OBJECT_CHANGED"


def test_a_server_that_ignores_if_match_cannot_mix_contents(place: Place, proxy: S3Proxy) -> None:
    uri = place.uri("name")
    place.store.put(uri, DATA)
    proxy.faults += [Fault(cut_after=1_000_000), Fault(ignore_headers=("if-match",))]
    with place.store.open(uri) as stream:
        stream.read(10)
        place.store.put(uri, DATA[::-1])
        assert refused(stream.read).reason == "OBJECT_CHANGED"


def test_a_server_that_ignores_ranges_is_found_out(place: Place, proxy: S3Proxy) -> None:
    uri = place.uri("name")
    place.store.put(uri, DATA)
    proxy.faults += [Fault(cut_after=1_000_000), Fault(ignore_headers=("range",))]
    with place.store.open(uri) as stream:
        error = refused(stream.read)
    assert error.reason == "STORAGE_UNAVAILABLE"
    assert "does not answer a request for bytes from" in error.message


def test_a_body_that_always_breaks_at_once_is_given_up(
    place: Place, proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = place.uri("name")
    place.store.put(uri, DATA)
    monkeypatch.setattr("services.common.storage.s3_stream.BACKOFF_SECONDS", 0.001)
    proxy.faults += [Fault(cut_after=0)] * (MAX_BREAKS + 1)

    error = refused(lambda: place.store.read(uri, max_bytes=SIZE))

    assert error.reason == "STORAGE_UNAVAILABLE"
    assert "broke at byte 0" in error.message
    assert not proxy.faults


def test_a_body_that_breaks_often_but_moves_on_is_read(
    place: Place, proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = place.uri("name")
    place.store.put(uri, DATA)
    monkeypatch.setattr("services.common.storage.s3_stream.BACKOFF_SECONDS", 0.001)
    proxy.faults += [Fault(cut_after=100_000)] * (3 * MAX_BREAKS)

    assert place.store.read(uri, max_bytes=SIZE) == DATA
    assert not proxy.faults


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize("method", ["GET", "PUT", "HEAD", "DELETE"])
def test_two_errors_and_then_an_answer(place: Place, proxy: S3Proxy, method: str, status: int) -> None:
    uri, store = place.uri("name"), place.store
    store.put(uri, b"content")
    proxy.faults += [Fault(method=method, status=status)] * 2
    operations: dict[str, Callable[[], object]] = {
        "GET": lambda: store.read(uri, max_bytes=10),
        "PUT": lambda: store.put(uri, b"new"),
        "HEAD": lambda: store.head(uri),
        "DELETE": lambda: store.delete(uri),
    }
    operations[method]()
    assert not proxy.faults


def test_errors_without_end_are_told(place: Place, proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.common.storage.s3_client.BACKOFF_SECONDS", 0.001)
    proxy.faults += [Fault(method="HEAD", status=503)] * (RETRIES + 1)

    error = refused(lambda: place.store.head(place.uri("name")))

    assert error.reason == "STORAGE_UNAVAILABLE"
    assert "503" in error.message
    assert not proxy.faults


def test_a_server_that_is_not_there_is_told_within_the_bound() -> None:
    endpoint = f"127.0.0.1:{free_ports(1)[0]}"
    store = open_store(StorageSettings.model_validate({"s3_endpoint": endpoint, "s3_secure": False}))
    started = time.monotonic()

    error = refused(lambda: store.read("s3://bucket/key", max_bytes=1))

    assert error.reason == "STORAGE_UNAVAILABLE"
    assert endpoint in error.message
    assert "s3://bucket/key" in error.message
    assert time.monotonic() - started < 10


def test_a_large_upload_survives_errors_in_each_of_its_steps(place: Place, proxy: S3Proxy) -> None:
    data = random.Random(6).randbytes(20_000_000)
    proxy.faults += [
        Fault(method="POST", status=503),  # start
        Fault(method="PUT", status=503),
        Fault(method="PUT", lose_answer=True),
        Fault(method="POST", status=503),  # end
    ]
    place.store.put(place.uri("large"), data)

    assert not proxy.faults
    assert place.store.read(place.uri("large"), max_bytes=len(data)) == data


@pytest.mark.parametrize(
    "fault",
    [
        Fault(method="PUT", lose_answer=True),
        Fault(method="PUT", status=409),
        Fault(method="PUT", status=503),
        Fault(method="PUT", status=500),
    ],
    ids=["answer-lost", "409", "503", "500"],
)
def test_a_conditional_put_wins_although_its_first_try_fails(place: Place, proxy: S3Proxy, fault: Fault) -> None:
    uri = place.uri("name")
    proxy.faults.append(fault)

    info = place.store.put(uri, b"mine", if_absent=True)

    assert info == place.store.head(uri)
    assert place.store.read(uri, max_bytes=10) == b"mine"
    assert not proxy.faults


def test_a_conditional_put_in_doubt_still_loses_to_another(place: Place, proxy: S3Proxy) -> None:
    uri = place.uri("name")
    place.store.put(uri, b"theirs")
    proxy.faults += [Fault(method="PUT", lose_answer=True)]

    assert refused(lambda: place.store.put(uri, b"mine!!", if_absent=True)).reason == "OBJECT_EXISTS"
    assert place.store.read(uri, max_bytes=10) == b"theirs"


def test_an_object_stored_as_gzip_is_read_as_stored(place: Place, proxy: S3Proxy) -> None:
    uri = place.uri("name.jsonl.gz")
    place.store.put(uri, DATA)
    proxy.faults += [Fault(answer_headers=(("Content-Encoding", "gzip"),))]
    assert place.store.read(uri, max_bytes=SIZE) == DATA


def test_redirects_are_not_followed(place: Place, proxy: S3Proxy, weed: Weed) -> None:
    uri = place.uri("name")
    place.store.put(uri, b"content")
    seen = len(proxy.requests)
    with S3Proxy(weed, Fault(status=307)) as front:
        settings = weed.settings(endpoint=front.endpoint)
        front.faults[0] = Fault(status=307, answer_headers=(("Location", f"http://{proxy.endpoint}/elsewhere"),))
        error = refused(lambda: open_store(settings).read(uri, max_bytes=10))
    assert error.reason in {"STORAGE_DENIED", "STORAGE_UNAVAILABLE"}
    assert len(proxy.requests) == seen


def test_a_server_that_does_not_speak_s3(tmp_path: Path, weed: Weed) -> None:
    """The port of something else: the message says which setting to look at."""
    with S3Proxy(weed, Fault(status=400, answer_headers=(("Content-Type", "text/html"),))) as front:
        store = open_store(weed.settings(endpoint=front.endpoint))
        error = refused(lambda: store.download("s3://bucket/key", tmp_path / "copy", max_bytes=1))
    assert error.reason == "STORAGE_UNAVAILABLE"
    assert "EIF_STORAGE_S3_ENDPOINT" in error.message


@pytest.mark.parametrize(
    "keys",
    [
        Keys(access_key="test-admin", secret_key="another-secret-key"),
        Keys(access_key="nobody-we-know", secret_key="another-secret-key"),
    ],
)
def test_wrong_credentials_are_denied_and_never_told(
    weed: Weed, keys: Keys, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    store, uri = open_store(weed.settings(keys=keys)), s3_place(weed).uri("name")
    operations: list[Callable[[], object]] = [
        lambda: store.head(uri),
        lambda: store.read(uri, max_bytes=1),
        lambda: store.download(uri, tmp_path / "copy", max_bytes=1),
        lambda: store.put(uri, b""),
        lambda: store.put(uri, b"", if_absent=True),
        lambda: store.delete(uri),
        lambda: list(store.list(uri)),
    ]
    with caplog.at_level(logging.DEBUG):
        errors = [refused(operation) for operation in operations]

    assert {error.reason for error in errors} == {"STORAGE_DENIED"}
    assert not [error for error in errors if keys.secret_key in repr(error) or keys.access_key in repr(error)]
    assert keys.secret_key not in caplog.text


def test_keys_that_have_expired_are_an_outage_and_no_refusal(place: Place, proxy: S3Proxy) -> None:
    """New ones are on their way: what waits for the store goes on then, and no sample is put aside."""
    uri, store = place.uri("name"), place.store
    store.put(uri, b"content")
    operations: dict[str, Callable[[], object]] = {
        "GET": lambda: store.read(uri, max_bytes=10),
        "HEAD": lambda: store.head(uri),
        "DELETE": lambda: store.delete(uri),
        "PUT": lambda: store.put(place.uri("new"), b"", if_absent=True),
    }
    for method, operation in operations.items():
        proxy.faults.append(Fault(method=method, status=400, code="ExpiredToken"))
        error = refused(operation)
        assert error.reason == "STORAGE_UNAVAILABLE"
        assert not proxy.faults
        operation()
    proxy.faults.append(Fault(status=400, code="ExpiredToken"))
    assert "renew the credentials" in refused(operations["GET"]).message


def test_a_reader_may_not_write(weed: Weed) -> None:
    place = s3_place(weed)
    uri = place.uri("name")
    place.store.put(uri, b"content")
    store = open_store(weed.settings(keys=READER))

    assert store.read(uri, max_bytes=10) == b"content"
    for write in (lambda: store.put(uri, b""), lambda: store.put(uri, b"", if_absent=True), lambda: store.delete(uri)):
        assert refused(write).reason == "STORAGE_DENIED"


def test_a_bucket_that_is_not_there(weed: Weed) -> None:
    store, uri = open_store(weed.settings()), "s3://no-such-bucket/key"
    for call in (
        lambda: store.head(uri),
        lambda: store.read(uri, max_bytes=1),
        lambda: store.put(uri, b""),
        lambda: store.put(uri, b"", if_absent=True),
        lambda: list(store.list(uri)),
    ):
        assert refused(call).reason == "OBJECT_NOT_FOUND"


def test_the_presigned_url_of_a_failed_create_is_never_shown(
    weed: Weed, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.common.storage.s3_create.BACKOFF_SECONDS", 0.001)
    settings = weed.settings(endpoint=f"127.0.0.1:{free_ports(1)[0]}")
    with caplog.at_level(logging.INFO):
        error = refused(lambda: open_store(settings).put("s3://bucket/key", b"", if_absent=True))

    told = f"{error!r} {error.__cause__!r} {error.__context__!r} {caplog.text}"
    assert error.reason == "STORAGE_UNAVAILABLE"
    assert "X-Amz" not in told
    assert "test-admin" not in told
