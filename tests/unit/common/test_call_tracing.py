from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from services.common.call_record import current_place
from services.common.call_tracing import CallTracing
from services.common.errors import ServiceError
from services.common.probe import is_serving
from services.common.rpc_errors import translate_errors
from services.common.traceparent import TraceParent
from services.common.tracing import Attribute, Span, SpanKind
from tests.echo import DOMAIN, SERVICE, call, echo_server, open_stream, read_all
from tests.waiting import eventually

PARENT = TraceParent(trace_id="a" * 32, span_id="b" * 16)
METADATA = (("traceparent", str(PARENT)),)


class Kept:
    """A span that is kept."""

    def __init__(self, name: str, parent: TraceParent | None, number: int) -> None:
        self.name, self.parent = name, parent
        self.place: TraceParent | None = TraceParent(trace_id="a" * 32, span_id=f"{number:016x}")
        self.ends: list[str | None] = []
        self.attributes: dict[str, Attribute] = {}

    def end(self, *, error: str | None = None, attributes: Mapping[str, Attribute] | None = None) -> None:
        self.ends.append(error)
        self.attributes |= attributes or {}


class Spans:
    """Tracing that keeps its spans."""

    def __init__(self) -> None:
        self.spans: list[Kept] = []

    def start(
        self,
        name: str,
        *,
        parent: TraceParent | None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Mapping[str, Attribute] | None = None,  # noqa: ARG002  the form of Tracing
    ) -> Span:
        assert kind is SpanKind.SERVER
        self.spans.append(Kept(name, parent, len(self.spans) + 1))
        return self.spans[-1]

    @contextmanager
    def current(self, span: Span) -> Iterator[None]:  # noqa: ARG002  the form of Tracing
        yield

    def close(self, *, timeout_s: float) -> None:
        """Nothing to send."""


@pytest.fixture
def spans() -> Spans:
    return Spans()


@pytest.mark.parametrize("method", ["Unary", "Stream", "Collect", "Chat"])
async def test_a_call_is_a_child_of_the_callers_span_and_the_parent_of_what_is_done(method: str, spans: Spans) -> None:
    places: list[TraceParent | None] = []

    async def body(request: Any, _context: Any) -> bytes | None:
        assert await read_all(request) == [b"request"]
        places.append(current_place())
        places.append(await asyncio.to_thread(current_place))
        return b"" if method in {"Unary", "Collect"} else None

    async with echo_server(body, observers=[CallTracing(spans)]) as (_, channel):
        await call(channel, method, metadata=METADATA)
    (span,) = spans.spans
    assert (span.name, span.parent, span.ends) == (f"{SERVICE}/{method}", PARENT, [None])
    assert places == [span.place] * 2
    assert span.attributes["rpc.grpc.status_code"] == 0


@pytest.mark.parametrize(
    ("reason", "error"),
    [("JOB_NOT_FOUND", None), ("STORAGE_UNAVAILABLE", "STORAGE_UNAVAILABLE"), ("INTERNAL", "INTERNAL")],
)
async def test_only_faults_of_the_server_make_a_span_an_error(reason: str, error: str | None, spans: Spans) -> None:
    async def body(_request: bytes, context: Any) -> None:
        async with translate_errors(context, "Unary", DOMAIN):
            raise ServiceError(reason, "no")

    async with echo_server(body, observers=[CallTracing(spans)]) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError):
            await call(channel, "Unary")
    (span,) = spans.spans
    assert span.ends == [error]
    assert span.attributes["eif.reason"] == reason


async def test_probes_and_methods_that_are_not_there_have_no_span(spans: Spans) -> None:
    async def body(request: bytes, _context: Any) -> bytes:
        return request

    async with echo_server(body, observers=[CallTracing(spans)]) as (running, channel):
        assert await asyncio.to_thread(is_serving, running.address)
        method: Any = channel.unary_unary("/test.Echo/None")
        with pytest.raises(grpc.aio.AioRpcError):
            await method(b"")
    assert spans.spans == []


@pytest.mark.parametrize("generator", [False, True])
async def test_streams_that_are_left_early_end_their_span_once_and_in_silence(
    spans: Spans, caplog: pytest.LogCaptureFixture, *, generator: bool
) -> None:
    async def write(_request: bytes, context: Any) -> None:
        while True:
            await context.write(b"answer")
            await asyncio.sleep(0.01)

    async def generate(_request: bytes, _context: Any) -> Any:
        while True:
            yield b"answer"
            await asyncio.sleep(0.01)

    async with echo_server(generate if generator else write, observers=[CallTracing(spans)]) as (_, channel):
        for _ in range(20):
            stream = open_stream(channel, metadata=METADATA)
            assert await stream.read() == b"answer"
            stream.cancel()
        del stream
        gc.collect()
        await eventually(lambda: len(spans.spans) == 20 and all(span.ends for span in spans.spans))
    assert {tuple(span.ends) for span in spans.spans} == {(None,)}
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
