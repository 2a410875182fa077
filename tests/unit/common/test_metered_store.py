from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.common.call_record import CURRENT_CALL, MAX_REQUEST_SPANS, CallRecord, place_of_request
from services.common.errors import ServiceError
from services.common.storage.base import ObjectStore
from services.common.storage.metered import MeteredStore, StorageCall
from services.common.traceparent import TraceParent
from services.common.tracing import Attribute, Span, SpanKind
from tests.stores import Place, local_place

PLACE = TraceParent(trace_id="a" * 32, span_id="b" * 16)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return local_place(tmp_path)


@pytest.fixture
def calls() -> list[StorageCall]:
    return []


@pytest.fixture
def store(place: Place, calls: list[StorageCall]) -> ObjectStore:
    return MeteredStore(place.store, calls.append)


def told(calls: list[StorageCall]) -> list[tuple[str, str, int]]:
    return [(call.op, call.code, call.size) for call in calls]


def test_each_request_is_told_with_its_bytes(
    place: Place, store: ObjectStore, calls: list[StorageCall], tmp_path: Path
) -> None:
    uri = place.uri("a/k")
    store.put(uri, b"12345")
    store.head(uri)
    store.read(uri, max_bytes=9)
    store.download(uri, tmp_path / "copy", max_bytes=9)
    assert [info.uri for info in store.list(place.uri("a/"))] == [uri]
    store.delete(uri)
    assert told(calls) == [
        ("put", "OK", 5),
        ("head", "OK", 0),
        ("read", "OK", 5),
        ("download", "OK", 5),
        ("list", "OK", 0),
        ("delete", "OK", 0),
    ]
    assert all(0 <= call.seconds < 10 for call in calls)


def test_a_stream_is_told_when_it_is_closed_with_what_was_read_of_it(
    place: Place, store: ObjectStore, calls: list[StorageCall]
) -> None:
    uri = place.uri("k")
    place.store.put(uri, bytes(100_000))
    with store.open(uri, offset=10) as stream:
        assert len(stream.read(50_000)) == 50_000
        assert calls == []
    ((op, code, size),) = told(calls)
    assert (op, code) == ("open", "OK")
    assert 50_000 <= size <= 50_000 + 8192


@pytest.mark.parametrize("op", ["head", "read", "open", "download"])
def test_an_error_is_told_by_its_reason(
    op: str, place: Place, store: ObjectStore, calls: list[StorageCall], tmp_path: Path
) -> None:
    arguments: dict[str, dict[str, object]] = {
        "read": {"max_bytes": 1},
        "download": {"path": tmp_path / "x", "max_bytes": 1},
    }
    with pytest.raises(ServiceError, match="does not exist"):
        getattr(store, op)(place.uri("none"), **arguments.get(op, {}))
    assert told(calls) == [(op, "OBJECT_NOT_FOUND", 0)]


def test_an_error_in_the_middle_of_a_stream_is_told(
    place: Place, store: ObjectStore, calls: list[StorageCall], tmp_path: Path
) -> None:
    uri = place.uri("k")
    place.store.put(uri, bytes(5_000_000))
    with store.open(uri) as stream:
        stream.read(10)
        (tmp_path / "k").write_bytes(b"another")
        with pytest.raises(ServiceError) as caught:
            stream.read()
    assert caught.value.reason == "OBJECT_CHANGED"
    assert [call.code for call in calls] == ["OBJECT_CHANGED"]


def test_a_listing_that_is_left_early_is_told(place: Place, store: ObjectStore, calls: list[StorageCall]) -> None:
    for name in "abc":
        place.store.put(place.uri(name), b"")
    listing = store.list(place.uri(""))
    next(listing)
    listing.close()  # type: ignore[attr-defined]  # it is a generator
    assert told(calls) == [("list", "OK", 0)]


class Spans:
    """Tracing that keeps what it is told."""

    def __init__(self) -> None:
        self.ended: list[tuple[str, TraceParent | None, str | None]] = []

    def start(
        self,
        name: str,
        *,
        parent: TraceParent | None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Mapping[str, Attribute] | None = None,  # noqa: ARG002  the form of Tracing
    ) -> Span:
        assert kind is SpanKind.CLIENT
        ended = self.ended

        class Kept:
            place = parent

            def end(self, *, error: str | None = None, attributes: object = None) -> None:  # noqa: ARG002
                ended.append((name, parent, error))

        return Kept()

    @contextmanager
    def current(self, span: Span) -> Iterator[None]:  # noqa: ARG002  the form of Tracing
        yield

    def close(self, *, timeout_s: float) -> None:
        """Nothing to send."""


def test_only_what_is_done_for_something_has_a_span_and_what_is_not_there_is_no_fault(place: Place) -> None:
    spans, where = Spans(), [PLACE, PLACE, None]
    store = MeteredStore(place.store, lambda _call: None, tracing=spans, place=where.pop)
    store.put(place.uri("k"), b"")
    with pytest.raises(ServiceError):
        store.head(place.uri("none"))
    with pytest.raises(ServiceError):
        store.read("s3://bucket/key", max_bytes=1)
    assert spans.ended == [("storage head", PLACE, None), ("storage read", PLACE, "URI_NOT_ALLOWED")]


async def test_a_call_and_what_it_leaves_behind_have_so_many_spans_of_requests() -> None:
    assert place_of_request() is None
    CURRENT_CALL.set(CallRecord(method="/s/m", place=PLACE))
    places = [place_of_request() for _ in range(MAX_REQUEST_SPANS)]
    places += [await asyncio.to_thread(place_of_request) for _ in range(3)]
    assert places == [PLACE] * MAX_REQUEST_SPANS + [None] * 3
