"""Changes the metadata of a call on its way out."""

from __future__ import annotations

from typing import NamedTuple

import grpc

Metadata = tuple[tuple[str, str | bytes], ...]


class CallDetails(NamedTuple):
    """What grpc.ClientCallDetails has."""

    method: str
    timeout: float | None
    metadata: Metadata
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


def metadata_of(details: grpc.ClientCallDetails | CallDetails) -> Metadata:
    """The metadata of a call."""
    return tuple(details.metadata or ())


def with_metadata(details: grpc.ClientCallDetails | CallDetails, key: str, value: str) -> CallDetails:
    """The call with one more entry in its metadata."""
    return CallDetails(
        method=details.method,
        timeout=details.timeout,
        metadata=(*metadata_of(details), (key, value)),
        credentials=details.credentials,
        wait_for_ready=details.wait_for_ready,
        compression=details.compression,
    )
