from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from typing import Any

import grpc
import pytest

from services.common.call_record import note_identity, note_job
from services.common.errors import ServiceError
from services.common.probe import is_serving
from services.common.rpc_errors import translate_errors
from services.common.telemetry import JsonFormatter
from tests.echo import DOMAIN, METHODS, SERVICE, call, echo_server, open_stream, read_all


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """Fields of the call log's lines."""
    return [vars(record)["fields"] for record in caplog.records if record.name == "eif.calls"]


@pytest.fixture(autouse=True)
def _all_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


async def answering(request: Any, _context: Any) -> bytes:
    return b"secret answer to " + b"".join(await read_all(request))


@pytest.mark.parametrize("method", ["Unary", "Collect"])
async def test_a_call_is_one_line_without_its_payload(method: str, caplog: pytest.LogCaptureFixture) -> None:
    metadata = (("x-request-id", "abc-1"), ("authorization", "Bearer hunter2"))
    async with echo_server(answering) as (_, channel):
        await call(channel, method, b"secret question", metadata=metadata)

    (line,) = lines(caplog)
    assert line["event"] == "call"
    assert line["method"] == f"/{SERVICE}/{method}"
    assert line["code"] == "OK"
    assert line["request_id"] == "abc-1"
    assert line["peer"].startswith("ipv4:127.0.0.1:")
    assert 0 <= line["duration_ms"] < 10_000
    assert "reason" not in line
    text = " ".join(JsonFormatter().format(record) for record in caplog.records if record.name == "eif.calls")
    assert "secret" not in text
    assert "hunter2" not in text


@pytest.mark.parametrize("method", ["Stream", "Chat"])
@pytest.mark.parametrize("generator", [False, True])
async def test_a_stream_is_one_line(method: str, *, generator: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def write(request: Any, context: Any) -> None:
        await read_all(request)
        for _ in range(3):
            await context.write(b"answer")

    async def generate(request: Any, _context: Any) -> Any:
        await read_all(request)
        for _ in range(3):
            yield b"answer"

    async with echo_server(generate if generator else write) as (_, channel):
        assert await call(channel, method) == [b"answer"] * 3
    assert [(line["method"], line["code"]) for line in lines(caplog)] == [(f"/{SERVICE}/{method}", "OK")]


@pytest.mark.parametrize("method", METHODS)
async def test_an_error_is_logged_with_code_and_reason(method: str, caplog: pytest.LogCaptureFixture) -> None:
    async def body(request: Any, context: Any) -> None:
        await read_all(request)
        async with translate_errors(context, method, DOMAIN):
            raise ServiceError("JOB_NOT_FOUND", "no such job")

    async with echo_server(body) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError):
            await call(channel, method)
    assert [(line["code"], line["reason"]) for line in lines(caplog)] == [("NOT_FOUND", "JOB_NOT_FOUND")]


async def test_reasons_of_calls_at_the_same_time_are_not_mixed(caplog: pytest.LogCaptureFixture) -> None:
    together = asyncio.Barrier(2)

    async def body(request: bytes, context: Any) -> bytes:
        async with translate_errors(context, "Unary", DOMAIN):
            await together.wait()
            if request == b"bad":
                raise ServiceError("INDEX_NOT_FOUND", "no such index")
            await asyncio.sleep(0)
            return b"answer"

    async with echo_server(body) as (_, channel):
        results = await asyncio.gather(
            call(channel, "Unary", b"bad"), call(channel, "Unary", b"good"), return_exceptions=True
        )
    assert isinstance(results[0], grpc.aio.AioRpcError)
    assert sorted((line["code"], line.get("reason")) for line in lines(caplog)) == [
        ("NOT_FOUND", "INDEX_NOT_FOUND"),
        ("OK", None),
    ]


async def test_an_error_that_nobody_translates_is_unknown(caplog: pytest.LogCaptureFixture) -> None:
    async def body(_request: Any, _context: Any) -> bytes:
        raise RuntimeError("not translated")

    async with echo_server(body) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError):
            await call(channel, "Unary")
    assert [line["code"] for line in lines(caplog)] == ["UNKNOWN"]


async def test_a_cancelled_call_is_logged_as_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    entered, left = asyncio.Event(), asyncio.Event()

    async def body(_request: Any, _context: Any) -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()

    async with echo_server(body) as (_, channel):
        stream = open_stream(channel)
        await asyncio.wait_for(entered.wait(), 10)
        stream.cancel()
        await asyncio.wait_for(left.wait(), 10)
    assert [line["code"] for line in lines(caplog)] == ["CANCELLED"]


async def test_health_checks_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with echo_server(answering) as (running, _):
        assert await asyncio.to_thread(is_serving, running.address)
    levels = [record.levelno for record in caplog.records if record.name == "eif.calls"]
    assert levels == [logging.DEBUG]


async def test_a_request_id_of_any_length_stays_short(caplog: pytest.LogCaptureFixture) -> None:
    async with echo_server(answering) as (_, channel):
        await call(channel, "Unary", metadata=(("x-request-id", "x" * 1000),))
    assert lines(caplog)[0]["request_id"] == "x" * 128


def test_logs_are_json_lines_on_standard_error() -> None:
    program = (
        "import logging; from services.common.telemetry import configure_logging; configure_logging('info'); "
        "log = logging.getLogger('a.b'); log.debug('no'); "
        "log.info('two\\nlines %d', 7, extra={'fields': {'event': 'e', 'size': 3}})\n"
        "try: 1/0\n"
        "except ZeroDivisionError: log.exception('failed')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    first, second = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.stdout == ""
    assert first.pop("time").endswith("+00:00")
    assert first == {"level": "INFO", "logger": "a.b", "message": "two\nlines 7", "event": "e", "size": 3}
    assert (second["level"], second["message"]) == ("ERROR", "failed")
    assert "ZeroDivisionError: division by zero" in second["error"]


async def test_a_line_has_the_ids_by_which_a_call_is_found(caplog: pytest.LogCaptureFixture) -> None:
    async def body(_request: bytes, _context: Any) -> bytes:
        note_identity("token:nightly")
        note_job("the-uid")
        logging.getLogger("services.somewhere").info("in the middle of a call")
        return b""

    formatted: list[dict[str, Any]] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            formatted.append(json.loads(JsonFormatter().format(record)))

    handler = Keep()
    logging.getLogger("services.somewhere").addHandler(handler)
    trace_id, span_id = "a" * 32, "b" * 16
    metadata = (("x-request-id", "r-1"), ("traceparent", f"00-{trace_id}-{span_id}-01"))
    try:
        async with echo_server(body) as (_, channel):
            await call(channel, "Unary", metadata=metadata)
    finally:
        logging.getLogger("services.somewhere").removeHandler(handler)
    ids = {"request_id": "r-1", "job_uid": "the-uid", "trace_id": trace_id, "span_id": span_id}
    (line,) = lines(caplog)
    assert line["identity"] == "token:nightly"
    assert ids.items() <= line.items()
    assert ids.items() <= formatted[0].items()


async def test_a_call_of_a_method_that_is_not_there_is_a_short_line(caplog: pytest.LogCaptureFixture) -> None:
    async with echo_server(answering) as (_, channel):
        method: Any = channel.unary_unary("/test.Echo/" + "x" * 1000)
        with pytest.raises(grpc.aio.AioRpcError):
            await method(b"")
    (line,) = lines(caplog)
    assert line["code"] == "UNIMPLEMENTED"
    assert len(line["method"]) == 200
