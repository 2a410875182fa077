"""From an exception to the status of a call: the one place where errors become gRPC."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from eif_engine.errors import EifError
from services.common.call_record import note_reason
from services.common.errors import STATUS_BY_REASON

MAX_STATUS_BYTES = 4096
"""Of a serialized google.rpc.Status. A call's trailers hold 8 KiB; beyond, the client gets no status at all."""

_MAX_MESSAGE_BYTES = 1024  # the message goes over the wire twice, once with every non-ASCII byte as three
_MAX_METADATA_BYTES = 256
_MAX_RETRY_S = 3600.0
_RETRY_SECONDS = {
    "QUEUE_FULL": 5,
    "TOO_MANY_CALLS": 1,
    "SERVER_STOPPING": 1,
    "JOB_TABLE_UNAVAILABLE": 5,
    "STORAGE_UNAVAILABLE": 5,
    "EMBEDDING_UNAVAILABLE": 5,
}
"""Usual ones; metadata `retry_after_s` of an error is better where it is there."""

_PUSHED_BACK = {"QUEUE_FULL"}
"""Reasons whose delay gRPC's own retries keep to as well, where a client has turned them on for this status."""

logger = logging.getLogger(__name__)


@asynccontextmanager
async def translate_errors(context: grpc.aio.ServicerContext[Any, Any], rpc: str, domain: str) -> AsyncIterator[None]:
    """End the call with the status of what is raised inside.

    Args:
        context: Of the call, unary or streaming.
        rpc: Name of the method, for the log.
        domain: Domain of ErrorInfo, for example `influence.eif.dev`.
    """
    pushback: tuple[tuple[str, str], ...] = ()
    try:
        yield
    except grpc.aio.AbortError:  # the body has ended the call itself: its status stands
        raise
    except EifError as error:
        note_reason(error.reason)
        if error.reason == "INTERNAL" or error.reason not in STATUS_BY_REASON:
            logger.exception("unhandled error in %s", rpc)
        status = rpc_status.to_status(status_of(error, domain))
        if error.reason in _PUSHED_BACK:
            pushback = (("grpc-retry-pushback-ms", str(round(1000 * _retry_s(error)))),)
    except Exception:
        note_reason("INTERNAL")
        logger.exception("unhandled error in %s", rpc)
        status = rpc_status.to_status(status_of(EifError("internal error"), domain))
    else:
        return
    await context.abort(status.code, status.details, (*(status.trailing_metadata or ()), *pushback))


def status_of(error: EifError, domain: str) -> Status:
    """The error as google.rpc.Status with ErrorInfo, at most MAX_STATUS_BYTES long."""
    code = STATUS_BY_REASON.get(error.reason, grpc.StatusCode.INTERNAL)
    status = Status(code=code.value[0], message=_clipped(error.message, _MAX_MESSAGE_BYTES))
    metadata = {key: _clipped(value, _MAX_METADATA_BYTES) for key, value in error.metadata.items()}
    details = [_packed(ErrorInfo(reason=error.reason, domain=domain, metadata=metadata))]
    if retry_s := _retry_s(error):
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(1000 * retry_s))
        details.append(_packed(RetryInfo(retry_delay=delay)))
    status.details.extend(details)
    if status.ByteSize() > MAX_STATUS_BYTES:
        status.details[0].CopyFrom(_packed(ErrorInfo(reason=error.reason, domain=domain)))
    return status


def _retry_s(error: EifError) -> float:
    """Seconds after which it makes sense to try again: what is known in this case, or else usual; 0 where none are."""
    usual = _RETRY_SECONDS.get(error.reason, 0)
    try:
        return min(max(float(error.metadata["retry_after_s"]), 0.0), _MAX_RETRY_S) if usual else 0.0
    except (KeyError, ValueError):
        return usual


def _packed(message: ErrorInfo | RetryInfo) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def _clipped(text: str, size: int) -> str:
    """At most `size` bytes of UTF-8; what is no Unicode becomes a question mark."""
    data = text.encode(errors="replace")
    return data.decode() if len(data) <= size else data[: size - 3].decode(errors="ignore") + "..."
