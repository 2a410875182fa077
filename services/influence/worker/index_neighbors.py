"""Neighbours from an index of the embedding service, over gRPC."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self, TypeVar, cast

import grpc
from eif.embedding.v1 import embedding_service_pb2 as pb
from eif.embedding.v1.embedding_service_pb2_grpc import EmbeddingServiceStub
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from eif_engine.jobs.relabel import NeighborVote
from services.client.channel import open_channel
from services.client.credentials import Credentials
from services.common.errors import STATUS_BY_REASON, ServiceError

logger = logging.getLogger(__name__)

MAX_REPLY_BYTES = 256 << 20
MAX_QUERIES = 256
BACKOFF_S = (0.1, 0.2, 0.5, 1.0, 2.0)
_AWAY = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})
_BUSY = frozenset({"QUEUE_FULL"})

ReplyT = TypeVar("ReplyT")


class IndexNeighbors:
    """Neighbours of samples of one index.

    Args:
        target: `host:port` of the embedding service.
        index: `projects/{project}/indexes/{index}`.
        timeout_s: Deadline of one call.
        patience_s: How long a service that is away or busy is called again.
        check: Called before each call; what it raises ends the work.
        credentials: How the two services know each other.
    """

    def __init__(
        self,
        target: str,
        index: str,
        *,
        timeout_s: float,
        patience_s: float,
        check: Callable[[], None],
        credentials: Credentials | None = None,
    ) -> None:
        self._target, self._index = target, index
        self._timeout_s, self._patience_s, self._check = timeout_s, patience_s, check
        options = [("grpc.max_receive_message_length", MAX_REPLY_BYTES), ("grpc.enable_retries", 0)]
        self._channel = open_channel(target, credentials=credentials or Credentials(), options=options)
        self._stub = EmbeddingServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    def limits(self) -> tuple[int, int]:
        """Queries of one call and neighbours of one query at most."""
        info = self._call(lambda: self._stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=self._timeout_s))
        return min(info.max_queries_per_request or MAX_QUERIES, MAX_QUERIES), info.max_neighbors

    def search(self, sample_ids: Sequence[str], num_neighbors: int) -> list[list[NeighborVote]]:
        """Neighbours of samples of the index, nearest first, never the sample itself; labels are those of the index.

        Raises:
            ServiceError: EMBEDDING_UNAVAILABLE when it stays away; SAMPLE_UNKNOWN (metadata `sample_id`),
                INDEX_NOT_FOUND, INDEX_NOT_READY and others as the embedding service gives them.
        """
        request = pb.SearchNeighborsRequest(
            index=self._index,
            queries=[pb.SearchQuery(sample_id=sample_id) for sample_id in sample_ids],
            num_neighbors=num_neighbors,
        )
        reply = self._call(lambda: self._stub.SearchNeighbors(request, timeout=self._timeout_s))
        return [_votes(found) for found in reply.results]

    def _call(self, call: Callable[[], ReplyT]) -> ReplyT:
        deadline, attempt = time.monotonic() + self._patience_s, 0
        while True:
            self._check()
            try:
                return call()
            except grpc.RpcError as error:
                reason = reason_of(error)
                if error.code() not in _AWAY and reason not in _BUSY:
                    raise self._translated(error, reason) from error
                wait = BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)]
                if time.monotonic() + wait > deadline:
                    raise self._away(error) from error
                logger.info("the embedding service is away (%s); called again in %g s", error.code().name, wait)
                self._sleep(wait)
                attempt += 1

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._check()
            time.sleep(min(left, 0.2))

    def _away(self, error: grpc.RpcError) -> ServiceError:
        return ServiceError(
            "EMBEDDING_UNAVAILABLE",
            f"the embedding service at {self._target} did not answer for {self._patience_s:g} s "
            f"({error.code().name}: {error.details()}); start it, or correct EIF_INFLUENCE_EMBEDDING_TARGET, then "
            "create the job again",
            target=self._target,
        )

    def _translated(self, error: grpc.RpcError, reason: str | None) -> ServiceError:
        if reason not in STATUS_BY_REASON:
            return ServiceError(
                "EMBEDDING_UNAVAILABLE",
                f"the embedding service at {self._target} answers {error.code().name}: {error.details()}",
                target=self._target,
            )
        return ServiceError(reason, f"embedding service: {error.details()}", **_metadata(error))


def reason_of(error: grpc.RpcError) -> str | None:
    """The reason in the ErrorInfo of an error, if there is one."""
    info = _error_info(error)
    return info.reason if info else None


def _metadata(error: grpc.RpcError) -> dict[str, str]:
    info = _error_info(error)
    return dict(info.metadata) if info else {}


def _error_info(error: grpc.RpcError) -> error_details_pb2.ErrorInfo | None:
    # grpc's stubs do not say that the error of a call is that call, which rpc_status reads the trailers of.
    status = rpc_status.from_call(cast("grpc.Call", error))
    info = error_details_pb2.ErrorInfo()
    for detail in status.details if status else ():
        if detail.Unpack(info):
            return info
    return None


def _votes(found: pb.Neighbors) -> list[NeighborVote]:
    columns = zip(found.sample_ids, found.labels, found.distances, strict=True)
    return [NeighborVote(sample_id=sample_id, label=label, distance=distance) for sample_id, label, distance in columns]
