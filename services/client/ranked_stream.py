"""A ranking as it streams in: resumed by token, checked chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing

import grpc
from eif.influence.v1 import influence_service_pb2, results_pb2

from services.client.connection import Connection, ServerStream
from services.client.errors import StreamCorrupt
from services.client.reconnect import Reconnect
from services.client.row_converters import chunk_of
from services.client.rows import RankedChunk, RankedSample
from services.client.streams import Stream, resuming
from services.common.checksum import chunk_crc32c

Request = influence_service_pb2.StreamRankedSamplesRequest
OpenCall = Callable[[Request, float], ServerStream[results_pb2.RankedSamplesChunk]]


class RankedStream(Stream[RankedSample]):
    """The rows of a ranking, from the end asked for. `chunks` gives the same by columns."""

    def __init__(self, chunks: Stream[RankedChunk]) -> None:
        self._chunks = chunks
        super().__init__((row for chunk in chunks for row in chunk.rows()), chunks)

    def chunks(self) -> Stream[RankedChunk]:
        """What is left of the ranking, by columns; each chunk carries the token that starts after it."""
        return self._chunks


def open_ranked_stream(
    open_call: OpenCall, request: Request, *, connection: Connection, reconnect: Reconnect
) -> RankedStream:
    """Stream a ranking; a call that breaks is followed by one that starts after the last chunk."""
    chunks = _chunks(open_call, request, connection=connection, reconnect=reconnect)
    return RankedStream(Stream(chunks))


def _chunks(
    open_call: OpenCall, request: Request, *, connection: Connection, reconnect: Reconnect
) -> Generator[RankedChunk, None, None]:
    position = _Position(request)
    messages = resuming(
        lambda timeout: open_call(request, timeout),
        connection=connection,
        reconnect=reconnect,
        is_complete=position.may_end,
    )
    with closing(messages):
        for message in messages:
            position.advance(message)
            request.resume_token = message.resume_token
            if message.sample_ids:
                yield chunk_of(message)
            if position.is_complete:
                return


class _Position:
    """How far a ranking was read, and what the next chunk must look like.

    The ranking over all queries, and that of a relabel job, has every rank. That of one query may have a gap: only the
    ends of it are kept. Rows are counted in both.
    """

    def __init__(self, request: Request) -> None:
        self._name = request.name
        self._max_rows = request.max_rows
        self._has_every_rank = request.query_id in {"", "all"}
        # Where a token of an earlier stream starts is known once the first chunk is here.
        self._rows: int | None = None if request.resume_token else 0
        self._next_rank = 0 if request.resume_token else 1
        self._total_rows: int | None = None
        self._ended_at = -1

    @property
    def is_complete(self) -> bool:
        """Whether every row asked for is here."""
        if self._rows is None or self._total_rows is None:
            return False
        wanted = min(self._total_rows, self._max_rows) if self._max_rows else self._total_rows
        return self._rows >= wanted

    def may_end(self) -> bool:
        """Whether a stream that the server has ended was complete. Raises StreamCorrupt when rows are missing.

        A server that sends nothing has an empty ranking, or nothing after the token.
        """
        if self.is_complete or self._rows is None or self._total_rows is None:
            return True
        if self._ended_at == self._rows:
            raise self._corrupt(f"the server ended it after {self._rows} of {self._total_rows} rows", self._next_rank)
        self._ended_at = self._rows
        return False

    def advance(self, chunk: results_pb2.RankedSamplesChunk) -> None:
        """Go past a chunk. Raises StreamCorrupt when it is not the one that must come next."""
        fault = self._fault(chunk)
        if fault:
            raise self._corrupt(fault, chunk.first_rank)
        count = len(chunk.sample_ids)
        self._total_rows = chunk.total_rows
        if count:
            self._next_rank = chunk.first_rank + count
            if self._rows is None and self._has_every_rank:
                self._rows = chunk.first_rank - 1
            if self._rows is not None:
                self._rows += count

    def _fault(self, chunk: results_pb2.RankedSamplesChunk) -> str:
        if _checksum(chunk) != chunk.crc32c:
            return "its checksum is wrong"
        count = len(chunk.sample_ids)
        optional = (chunk.suggested_labels, chunk.suggested_probabilities)
        if len(chunk.scores) != count or len(chunk.labels) != count or any(len(c) not in {0, count} for c in optional):
            return "its columns differ in length"
        if self._total_rows not in {None, chunk.total_rows}:
            return f"the ranking had {self._total_rows} rows, now {chunk.total_rows}"
        if count and not self._follows(chunk.first_rank):
            return f"rank {self._next_rank} must come next"
        return ""

    def _follows(self, rank: int) -> bool:
        if self._has_every_rank and self._next_rank:
            return rank == self._next_rank
        return rank >= self._next_rank

    def _corrupt(self, what: str, rank: int) -> StreamCorrupt:
        return StreamCorrupt(
            grpc.StatusCode.DATA_LOSS,
            "STREAM_CORRUPT",
            f"the ranking of {self._name} cannot be trusted at rank {rank}: {what}; stream it again, and when this "
            "repeats, run the job again",
            {"job": self._name, "rank": str(rank)},
        )


def _checksum(chunk: results_pb2.RankedSamplesChunk) -> int:
    return chunk_crc32c(
        query_id=chunk.query_id,
        first_rank=chunk.first_rank,
        sample_ids=chunk.sample_ids,
        scores=chunk.scores,
        labels=chunk.labels,
        suggested_labels=chunk.suggested_labels,
        suggested_probabilities=chunk.suggested_probabilities,
    )
