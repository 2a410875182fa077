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
        is_complete=lambda: position.is_complete,
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
    """How far a ranking was read, and what the next chunk must look like."""

    def __init__(self, request: Request) -> None:
        self._name = request.name
        self._max_rows = request.max_rows
        # Where a token of an earlier stream starts is known once the first chunk is here.
        self._next_rank = 0 if request.resume_token else 1
        self._total_rows: int | None = None

    @property
    def is_complete(self) -> bool:
        """Whether every row asked for is here; a server that sends nothing has an empty ranking."""
        if self._total_rows is None:
            return True
        wanted = min(self._total_rows, self._max_rows) if self._max_rows else self._total_rows
        return self._next_rank > wanted

    def advance(self, chunk: results_pb2.RankedSamplesChunk) -> None:
        """Go past a chunk. Raises StreamCorrupt when it is not the one that must come next."""
        if _checksum(chunk) != chunk.crc32c:
            raise self._corrupt("its checksum is wrong", chunk)
        columns = (chunk.scores, chunk.labels, chunk.suggested_labels, chunk.suggested_probabilities)
        rows = len(chunk.sample_ids)
        if any(len(column) != rows for column in columns[:2]) or any(
            len(column) not in {0, rows} for column in columns
        ):
            raise self._corrupt("its columns differ in length", chunk)
        if self._total_rows not in {None, chunk.total_rows}:
            raise self._corrupt(f"the ranking had {self._total_rows} rows, now {chunk.total_rows}", chunk)
        if rows and self._next_rank not in {0, chunk.first_rank}:
            raise self._corrupt(f"rank {self._next_rank} must come next", chunk)
        self._total_rows = chunk.total_rows
        if rows:
            self._next_rank = chunk.first_rank + rows

    def _corrupt(self, what: str, chunk: results_pb2.RankedSamplesChunk) -> StreamCorrupt:
        return StreamCorrupt(
            grpc.StatusCode.DATA_LOSS,
            "STREAM_CORRUPT",
            f"the chunk of {self._name} that starts at rank {chunk.first_rank} cannot be trusted: {what}; stream the "
            "ranking again, and when this repeats, run the job again",
            {"job": self._name, "first_rank": str(chunk.first_rank)},
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
