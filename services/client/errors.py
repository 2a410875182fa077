"""What a call can end with.

    EifRpcError
    |-- InvalidArgument      the request or the data is wrong; sending it again will not help
    |-- NotFound             no such job, model, index, query, table or object
    |-- AlreadyExists        the name is taken
    |-- PermissionDenied     the URI, the bucket or what is asked for is not allowed
    |   `-- Unauthenticated  the server does not know who calls, or the client does not trust the server
    |-- FailedPrecondition   not in this state: the job has not ended, the index is not ready ...
    |-- ResourceExhausted    the queue or a device is full; later it may work
    |-- Aborted              something changed meanwhile: an etag, an object
    |-- Unavailable          no server answers, or what it needs does not; safe to try again
    |-- DeadlineExceeded     no answer in time
    |-- DataLoss             what was read is damaged
    |   `-- StreamCorrupt    a stream broke its promise: wrong checksum, rows missing or twice
    |-- Cancelled            the call was cancelled, or the client was closed
    |-- Internal             a fault of the server; its log says more
    |-- JobEnded             the job ended without results; `job` has it
    |   |-- JobFailed
    |   `-- JobCancelled
    `-- BuildFailed          an index could not be built; `index` has it

`reason` is the frozen reason of google.rpc.ErrorInfo (docs/reference/errors.md); what the client finds by itself has
SERVER_UNREACHABLE, SERVER_NOT_TRUSTED, MESSAGE_TOO_LARGE, DEADLINE_EXCEEDED, WAIT_TIMEOUT, STREAM_CORRUPT or
CLIENT_CLOSED.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from services.client.trust import lost_because, trust_problem

if TYPE_CHECKING:
    from services.client.embeddings import Index
    from services.client.jobs import Job

_DETAILS_KEY = "grpc-status-details-bin"
_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


class EifRpcError(Exception):
    """A call that did not succeed.

    Args:
        code: The gRPC status code.
        reason: The frozen reason, such as MANIFEST_INVALID.
        message: What is wrong and what to do about it.
        metadata: The dynamic parts of the message, by name.

    Attributes:
        from_service: False when the connection failed, so that the service itself may never have seen the call.
    """

    from_service: bool = True

    def __init__(
        self, code: grpc.StatusCode, reason: str, message: str, metadata: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(code, reason, message, metadata)
        self.code = code
        self.reason = reason
        self.message = message
        self.metadata: dict[str, str] = dict(metadata or {})

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


class InvalidArgument(EifRpcError):
    """The request or the data is wrong."""


class NotFound(EifRpcError):
    """No such job, model, index, query, table or object."""


class AlreadyExists(EifRpcError):
    """The name is taken."""


class PermissionDenied(EifRpcError):
    """The server may not, or must not, touch this."""


class Unauthenticated(PermissionDenied):
    """One of the two does not know the other."""


class FailedPrecondition(EifRpcError):
    """Not in this state."""


class ResourceExhausted(EifRpcError):
    """A queue, a limit or a device is full."""


class Aborted(EifRpcError):
    """Something changed meanwhile."""


class Unavailable(EifRpcError):
    """No server answers, or what it needs does not."""


class DeadlineExceeded(EifRpcError):
    """No answer in time."""


class DataLoss(EifRpcError):
    """What was read is damaged."""


class StreamCorrupt(DataLoss):
    """A stream broke its promise: wrong checksum, rows missing or twice."""


class Cancelled(EifRpcError):
    """The call was cancelled, or the client was closed."""


class Internal(EifRpcError):
    """A fault of the server."""


class JobEnded(EifRpcError):
    """The job ended without results; `job` has it."""

    def __init__(
        self, code: grpc.StatusCode, reason: str, message: str, metadata: Mapping[str, str] | None, job: Job
    ) -> None:
        super().__init__(code, reason, message, metadata)
        self.args = (code, reason, message, metadata, job)
        self.job = job


class JobFailed(JobEnded):
    """The job failed."""


class JobCancelled(JobEnded):
    """The job was cancelled."""


class BuildFailed(EifRpcError):
    """An index could not be built; `index` has it."""

    def __init__(
        self, code: grpc.StatusCode, reason: str, message: str, metadata: Mapping[str, str] | None, index: Index
    ) -> None:
        super().__init__(code, reason, message, metadata)
        self.args = (code, reason, message, metadata, index)
        self.index = index


_CLASSES: dict[grpc.StatusCode, type[EifRpcError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.OUT_OF_RANGE: InvalidArgument,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.ABORTED: Aborted,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.DATA_LOSS: DataLoss,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.INTERNAL: Internal,
    grpc.StatusCode.UNKNOWN: Internal,
}
_TOO_LARGE = re.compile(r"(SERVER|CLIENT): Received message larger than max \((\d+) vs\. (\d+)\)")
_TRANSPORT_REASONS = {grpc.StatusCode.UNAVAILABLE: "SERVER_UNREACHABLE"}


def error_of(code: grpc.StatusCode, reason: str, message: str, metadata: Mapping[str, str]) -> EifRpcError:
    """The subclass for a status code."""
    return _CLASSES.get(code, EifRpcError)(code, reason, message, metadata)


def from_rpc_error(error: grpc.RpcError, *, target: str) -> EifRpcError:
    """What a failed call says, from google.rpc.ErrorInfo where the server sent it."""
    if not isinstance(error, grpc.Call):
        return Internal(grpc.StatusCode.INTERNAL, "INTERNAL", str(error))
    code = error.code() or grpc.StatusCode.UNKNOWN
    info = _error_info(_status_of(error))
    if info is not None:
        return error_of(code, info.reason, error.details() or info.reason, info.metadata)
    details = error.details() or ""
    if too_large := _TOO_LARGE.search(details):
        return _message_too_large(*too_large.groups(), target=target)
    distrust = trust_problem(details, target) if code is grpc.StatusCode.UNAVAILABLE else None
    if distrust is not None:  # trying again would end the same, unlike what is UNAVAILABLE
        failure = error_of(grpc.StatusCode.UNAUTHENTICATED, "SERVER_NOT_TRUSTED", distrust, {"target": target})
        failure.from_service = False
        return failure
    failure = error_of(
        code,
        _TRANSPORT_REASONS.get(code, code.name),
        _transport_message(code, details, target),
        {"target": target, "details": details},
    )
    failure.from_service = False
    return failure


def _message_too_large(side: str, size: str, limit: str, *, target: str) -> EifRpcError:
    """What gRPC says by itself, without a reason."""
    told = f"the request has {size} bytes, and {target} takes at most {limit} in one"
    if side == "CLIENT":
        told = f"the answer of {target} has {size} bytes, and this client takes at most {limit} in one"
    metadata = {"target": target, "size_bytes": size, "limit_bytes": limit}
    failure = InvalidArgument(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE", f"{told}; ask for less", metadata
    )
    failure.from_service = False
    return failure


def code_of(status: status_pb2.Status) -> grpc.StatusCode:
    """The code of a google.rpc.Status."""
    return _CODES.get(status.code, grpc.StatusCode.UNKNOWN)


def info_of(status: status_pb2.Status) -> tuple[str, dict[str, str]]:
    """Reason and metadata of a google.rpc.Status, by its ErrorInfo where it has one."""
    info = _error_info(status)
    return (info.reason, dict(info.metadata)) if info is not None else (code_of(status).name, {})


def _status_of(call: grpc.Call) -> status_pb2.Status | None:
    for key, value in call.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                return None
    return None


def _error_info(status: status_pb2.Status | None) -> error_details_pb2.ErrorInfo | None:
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info
    return None


def _transport_message(code: grpc.StatusCode, details: str, target: str) -> str:
    cause = details.rpartition(": ")[2] or code.name
    if code is grpc.StatusCode.UNAVAILABLE:
        return f"no server answers at {target} ({lost_because(cause)})"
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"{target} did not answer in time"
    return f"{target}: {details or code.name}"
