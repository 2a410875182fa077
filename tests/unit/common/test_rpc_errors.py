"""Every test goes over a real server: what counts is what a client sees."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from eif_engine.errors import EifError, ManifestInvalid
from services.common.errors import STATUS_BY_REASON, ServiceError
from services.common.rpc_errors import MAX_STATUS_BYTES, status_of, translate_errors
from tests.echo import DOMAIN, METHODS, call, echo_server, open_stream, read_all


async def outcome(body: Any, method: str = "Unary") -> tuple[grpc.StatusCode, str, Status | None]:
    """Code, text and rich status of a call that fails."""
    async with echo_server(body) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(channel, method)
    return caught.value.code(), caught.value.details() or "", rpc_status.from_call(caught.value)  # type: ignore[arg-type]  # reads what AioRpcError has too


def raising(error: Exception, *, answers: int = 0) -> Any:
    async def body(request: Any, context: Any) -> None:
        await read_all(request)
        async with translate_errors(context, "Method", DOMAIN):
            for _ in range(answers):
                await context.write(b"answer")
            raise error

    return body


def info_of(status: Status | None) -> ErrorInfo:
    assert status is not None
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    return info


@pytest.mark.parametrize("method", METHODS)
async def test_a_domain_error_ends_each_kind_of_call_with_its_status(method: str) -> None:
    error = ManifestInvalid("m.csv, line 7: no label", uri="s3://b/m.csv", line=7)
    code, text, status = await outcome(raising(error), method)

    assert (code, text) == (grpc.StatusCode.INVALID_ARGUMENT, "m.csv, line 7: no label")
    assert info_of(status) == ErrorInfo(
        reason="MANIFEST_INVALID", domain=DOMAIN, metadata={"uri": "s3://b/m.csv", "line": "7"}
    )


@pytest.mark.parametrize("reason", sorted(STATUS_BY_REASON))
async def test_every_reason_has_its_status_on_the_wire(reason: str) -> None:
    code, text, status = await outcome(raising(ServiceError(reason, "what is wrong")))
    assert (code, text) == (STATUS_BY_REASON[reason], "what is wrong")
    assert info_of(status).reason == reason


async def test_a_stream_keeps_what_was_sent_before_the_error() -> None:
    async with echo_server(raising(ServiceError("JOB_NOT_FOUND", "no such job"), answers=2)) as (_, channel):
        stream = open_stream(channel)
        assert [await stream.read(), await stream.read()] == [b"answer", b"answer"]
        with pytest.raises(grpc.aio.AioRpcError, match="no such job"):
            await stream.read()


@pytest.mark.parametrize("method", METHODS)
async def test_an_unknown_error_is_logged_but_not_told(method: str, caplog: pytest.LogCaptureFixture) -> None:
    code, text, status = await outcome(raising(RuntimeError("password=hunter2")), method)

    assert (code, text) == (grpc.StatusCode.INTERNAL, "internal error")
    assert info_of(status) == ErrorInfo(reason="INTERNAL", domain=DOMAIN)
    (record,) = [record for record in caplog.records if record.name == "services.common.rpc_errors"]
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert "hunter2" in str(record.exc_info[1])


class Unlisted(EifError):
    reason = "SOMETHING_NEW"


async def test_an_error_without_a_status_is_internal_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    code, _, status = await outcome(raising(Unlisted("text for the caller")))
    assert code is grpc.StatusCode.INTERNAL
    assert info_of(status).reason == "SOMETHING_NEW"
    assert "unhandled error in Method" in caplog.text


async def test_an_abort_in_the_body_keeps_its_status() -> None:
    async def body(_request: Any, context: Any) -> None:
        async with translate_errors(context, "Method", DOMAIN):
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as I said")

    code, text, status = await outcome(body)
    assert (code, text, status) == (grpc.StatusCode.FAILED_PRECONDITION, "as I said", None)


async def test_a_call_without_error_passes() -> None:
    async def body(request: bytes, context: Any) -> bytes:
        async with translate_errors(context, "Method", DOMAIN):
            return request * 2

    async with echo_server(body) as (_, channel):
        assert await call(channel, "Unary", b"ab") == [b"abab"]


async def test_a_client_that_cancels_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    entered, left = asyncio.Event(), asyncio.Event()

    async def body(_request: Any, context: Any) -> None:
        try:
            async with translate_errors(context, "Method", DOMAIN):
                entered.set()
                await asyncio.Event().wait()
        finally:
            left.set()

    async with echo_server(body) as (_, channel):
        stream = open_stream(channel)
        await asyncio.wait_for(entered.wait(), 10)
        stream.cancel()
        await asyncio.wait_for(left.wait(), 10)
    assert "unhandled" not in caplog.text


@pytest.mark.parametrize("text", ["x" * 20_000, "ü😀\n" * 7_000])
async def test_an_error_of_any_length_reaches_the_client(text: str) -> None:
    """The trailers hold 8 KiB; what does not fit would cost the client the whole status."""
    error = ServiceError("MANIFEST_INVALID", text, first=text, second=text, uri="s3://bucket/m.csv")
    code, told, status = await outcome(raising(error))

    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert told.endswith("...")
    assert told.startswith(text[:200])
    assert info_of(status).reason == "MANIFEST_INVALID"
    assert info_of(status).metadata["uri"] == "s3://bucket/m.csv"


def test_metadata_without_end_is_left_out_before_the_status_is_too_long() -> None:
    error = ServiceError("MANIFEST_INVALID", "text", **{f"key_{number}": "x" * 200 for number in range(100)})
    status = status_of(error, DOMAIN)
    assert status.ByteSize() <= MAX_STATUS_BYTES
    assert info_of(status) == ErrorInfo(reason="MANIFEST_INVALID", domain=DOMAIN)
    assert status.message == "text"


def test_the_status_of_a_job_says_when_to_try_again() -> None:
    status = status_of(ServiceError("STORAGE_UNAVAILABLE", "gone", uri="s3://b/k"), DOMAIN)
    retry = RetryInfo()
    assert status.code == grpc.StatusCode.UNAVAILABLE.value[0]
    assert status.details[1].Unpack(retry)
    assert retry.retry_delay.seconds > 0


async def test_a_full_queue_says_when_to_try_again_to_people_and_to_grpc() -> None:
    error = ServiceError("QUEUE_FULL", "wait", retry_after_s=12.5)
    async with echo_server(raising(error)) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(channel, "Unary")
    status, retry = rpc_status.from_call(caught.value), RetryInfo()  # type: ignore[arg-type]  # reads what AioRpcError has too
    assert status is not None
    assert status.details[1].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() == 12_500
    assert dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"] == "12500"


@pytest.mark.parametrize(
    ("reason", "metadata", "milliseconds"),
    [
        ("QUEUE_FULL", {}, 5000),
        ("QUEUE_FULL", {"retry_after_s": "soon"}, 5000),
        ("QUEUE_FULL", {"retry_after_s": "1e99"}, 3_600_000),
        ("JOB_NOT_FOUND", {"retry_after_s": "7"}, 0),
        ("TOO_MANY_CALLS", {}, 1000),
        ("JOB_TABLE_UNAVAILABLE", {}, 5000),
        ("SERVER_STOPPING", {}, 1000),
    ],
)
def test_delays_are_sensible(reason: str, metadata: dict[str, str], milliseconds: int) -> None:
    status, retry = status_of(ServiceError(reason, "wait", **metadata), DOMAIN), RetryInfo()
    for detail in status.details:
        detail.Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() == milliseconds


def test_text_that_is_no_unicode_is_told_all_the_same() -> None:
    assert "name?" in status_of(ServiceError("MANIFEST_INVALID", "name\udcff", uri="\udcff"), DOMAIN).message
