"""Rankings as a server streams them, with right checksums and tokens."""

from __future__ import annotations

from eif.influence.v1 import results_pb2

from services.common.checksum import chunk_crc32c


def ranking_chunks(
    rows: int, *, chunk_rows: int = 10, query_id: str = "all", relabel: bool = False
) -> list[results_pb2.RankedSamplesChunk]:
    """A ranking of `rows` samples `s1`, `s2` ... with falling scores; the token is the rank that comes next."""
    chunks = [
        _chunk(first, min(chunk_rows, rows - first + 1), rows, query_id, relabel=relabel)
        for first in range(1, rows + 1, chunk_rows)
    ]
    return chunks or [signed(results_pb2.RankedSamplesChunk(query_id=query_id, first_rank=1))]


def signed(chunk: results_pb2.RankedSamplesChunk) -> results_pb2.RankedSamplesChunk:
    """The chunk with its checksum."""
    chunk.crc32c = chunk_crc32c(
        query_id=chunk.query_id,
        first_rank=chunk.first_rank,
        sample_ids=chunk.sample_ids,
        scores=chunk.scores,
        labels=chunk.labels,
        suggested_labels=chunk.suggested_labels,
        suggested_probabilities=chunk.suggested_probabilities,
    )
    return chunk


def _chunk(first: int, count: int, total: int, query_id: str, *, relabel: bool) -> results_pb2.RankedSamplesChunk:
    ranks = range(first, first + count)
    chunk = results_pb2.RankedSamplesChunk(
        query_id=query_id,
        first_rank=first,
        sample_ids=[f"s{rank}" for rank in ranks],
        scores=[(total / 2 - rank) / total for rank in ranks],
        labels=[f"label-{rank % 3}" for rank in ranks],
        resume_token=str(first + count),
        total_rows=total,
    )
    if relabel:
        chunk.suggested_labels.extend(f"label-{(rank + 1) % 3}" for rank in ranks)
        chunk.suggested_probabilities.extend(0.75 for _ in ranks)
    return signed(chunk)
