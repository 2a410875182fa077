"""Errors of the services, and the one table from reason to gRPC status.

Reasons are part of the API: they are never renamed (docs/reference/errors.md lists them; a test holds the list).
"""

from __future__ import annotations

from grpc import StatusCode

from eif_engine.errors import EifError


class ServiceError(EifError):
    """An error of a service, with the reason given at construction.

    Args:
        reason: One of the keys of STATUS_BY_REASON.
        message: What is wrong and what to do about it.
        **metadata: The dynamic parts of the message, by name.
    """

    def __init__(self, reason: str, message: str, **metadata: str | float) -> None:
        if reason not in STATUS_BY_REASON:
            raise ValueError(f"reason {reason} is not in STATUS_BY_REASON")
        super().__init__(message, **metadata)
        self.reason = reason


STATUS_BY_REASON: dict[str, StatusCode] = {
    # the request
    "ARGUMENT_INVALID": StatusCode.INVALID_ARGUMENT,
    "PAGE_TOKEN_INVALID": StatusCode.INVALID_ARGUMENT,
    "RESUME_TOKEN_INVALID": StatusCode.INVALID_ARGUMENT,
    "REQUEST_ID_REUSED": StatusCode.INVALID_ARGUMENT,
    "URI_NOT_ALLOWED": StatusCode.PERMISSION_DENIED,
    "ETAG_MISMATCH": StatusCode.ABORTED,
    "SERVER_STOPPING": StatusCode.UNAVAILABLE,
    "POLICY_INVALID": StatusCode.INVALID_ARGUMENT,
    # the caller
    "CREDENTIALS_MISSING": StatusCode.UNAUTHENTICATED,
    "CREDENTIALS_INVALID": StatusCode.UNAUTHENTICATED,
    "ACCESS_DENIED": StatusCode.PERMISSION_DENIED,
    "TOO_MANY_CALLS": StatusCode.RESOURCE_EXHAUSTED,
    # jobs
    "JOB_NOT_FOUND": StatusCode.NOT_FOUND,
    "JOB_ALREADY_EXISTS": StatusCode.ALREADY_EXISTS,
    "JOB_NOT_SUCCEEDED": StatusCode.FAILED_PRECONDITION,
    "JOB_NOT_ENDED": StatusCode.FAILED_PRECONDITION,
    "JOB_CANCELLED": StatusCode.CANCELLED,
    "QUERY_NOT_FOUND": StatusCode.NOT_FOUND,
    "TABLE_NOT_FOUND": StatusCode.NOT_FOUND,
    "FILE_NOT_FOUND": StatusCode.NOT_FOUND,
    "QUEUE_FULL": StatusCode.RESOURCE_EXHAUSTED,
    "JOB_TABLE_UNAVAILABLE": StatusCode.UNAVAILABLE,
    "WORKER_CRASHED": StatusCode.INTERNAL,
    "OUT_OF_MEMORY": StatusCode.RESOURCE_EXHAUSTED,
    "TIME_LIMIT_EXCEEDED": StatusCode.DEADLINE_EXCEEDED,
    "JOB_STALLED": StatusCode.DEADLINE_EXCEEDED,
    "CLUSTER_UNAVAILABLE": StatusCode.UNAVAILABLE,
    "CLUSTER_DENIED": StatusCode.PERMISSION_DENIED,
    "RESULT_CORRUPT": StatusCode.DATA_LOSS,
    # the object store
    "OBJECT_NOT_FOUND": StatusCode.NOT_FOUND,
    "OBJECT_EXISTS": StatusCode.ALREADY_EXISTS,
    "OBJECT_CHANGED": StatusCode.ABORTED,
    "OBJECT_DIGEST_MISMATCH": StatusCode.DATA_LOSS,
    "OBJECT_TOO_LARGE": StatusCode.INVALID_ARGUMENT,
    "STORAGE_UNAVAILABLE": StatusCode.UNAVAILABLE,
    "STORAGE_DENIED": StatusCode.PERMISSION_DENIED,
    # data and models
    "MANIFEST_INVALID": StatusCode.INVALID_ARGUMENT,
    "LABEL_UNKNOWN": StatusCode.INVALID_ARGUMENT,
    "SAMPLE_UNKNOWN": StatusCode.INVALID_ARGUMENT,
    "IMAGE_INVALID": StatusCode.INVALID_ARGUMENT,
    "ARCHIVE_INVALID": StatusCode.INVALID_ARGUMENT,
    "MODEL_BUNDLE_INVALID": StatusCode.INVALID_ARGUMENT,
    "CHECKPOINT_UNSAFE": StatusCode.INVALID_ARGUMENT,
    "CHECKPOINT_INCOMPATIBLE": StatusCode.INVALID_ARGUMENT,
    "FEATURE_MAP_MISSING": StatusCode.INVALID_ARGUMENT,
    "ONNX_INVALID": StatusCode.INVALID_ARGUMENT,
    "TOO_MANY_QUARANTINED": StatusCode.FAILED_PRECONDITION,
    # the embedding service
    "MODEL_NOT_FOUND": StatusCode.NOT_FOUND,
    "MODEL_ALREADY_EXISTS": StatusCode.ALREADY_EXISTS,
    "MODEL_IN_USE": StatusCode.FAILED_PRECONDITION,
    "INDEX_NOT_FOUND": StatusCode.NOT_FOUND,
    "INDEX_ALREADY_EXISTS": StatusCode.ALREADY_EXISTS,
    "INDEX_NOT_READY": StatusCode.FAILED_PRECONDITION,
    "SPACE_NOT_AVAILABLE": StatusCode.FAILED_PRECONDITION,
    "EMBEDDING_UNAVAILABLE": StatusCode.UNAVAILABLE,
    # this machine
    "RESOURCE_PROBLEM": StatusCode.RESOURCE_EXHAUSTED,
    "DEVICE_UNAVAILABLE": StatusCode.FAILED_PRECONDITION,
    "MEMORY_EXCEEDED": StatusCode.RESOURCE_EXHAUSTED,
    "GPU_OUT_OF_MEMORY": StatusCode.RESOURCE_EXHAUSTED,
    "SCRATCH_FULL": StatusCode.RESOURCE_EXHAUSTED,
    "INTERNAL": StatusCode.INTERNAL,
}
