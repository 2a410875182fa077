"""From rows and chunks of results.proto to what the client hands out."""

from __future__ import annotations

from eif.influence.v1 import results_pb2

from services.client.rows import (
    QuarantinedSample,
    QueryPair,
    RankedChunk,
    RankedSample,
    RelabelSuggestion,
    Row,
    Voter,
)


def row_of(message: results_pb2.ResultRow) -> Row | None:
    """A row, or None for one of a kind that is newer than this client."""
    match message.WhichOneof("row"):
        case "ranked":
            return _ranked(message.ranked)
        case "relabel":
            return _relabel(message.relabel)
        case "pair":
            return _pair(message.pair)
        case "quarantined":
            return _quarantined(message.quarantined)
        case _:
            return None


def chunk_of(message: results_pb2.RankedSamplesChunk) -> RankedChunk:
    """A chunk of a ranking."""
    return RankedChunk(
        query_id=message.query_id,
        first_rank=message.first_rank,
        sample_ids=tuple(message.sample_ids),
        scores=tuple(message.scores),
        labels=tuple(message.labels),
        suggested_labels=tuple(message.suggested_labels),
        suggested_probabilities=tuple(message.suggested_probabilities),
        resume_token=message.resume_token,
        total_rows=message.total_rows,
    )


def _ranked(message: results_pb2.RankedSample) -> RankedSample:
    return RankedSample(
        query_id=message.query_id,
        rank=message.rank,
        sample_id=message.sample_id,
        label=message.label,
        score=message.score,
    )


def _relabel(message: results_pb2.RelabelSuggestion) -> RelabelSuggestion:
    voters = tuple(
        Voter(sample_id=voter.sample_id, label=voter.label, distance=voter.distance) for voter in message.neighbors
    )
    return RelabelSuggestion(
        rank=message.rank,
        sample_id=message.sample_id,
        label=message.label,
        suggested_label=message.suggested_label,
        suggested_probability=message.suggested_probability,
        label_probability=message.label_probability,
        score=message.score,
        neighbors=voters,
    )


def _pair(message: results_pb2.QueryPair) -> QueryPair:
    return QueryPair(
        query_id=message.query_id,
        kind=message.kind,
        sample_id=message.sample_id,
        neighbor_id=message.neighbor_id,
        label=message.label,
        neighbor_label=message.neighbor_label,
        distance=message.distance,
    )


def _quarantined(message: results_pb2.QuarantinedSample) -> QuarantinedSample:
    return QuarantinedSample(
        sample_id=message.sample_id,
        uri=message.uri,
        split=message.split,
        reason=message.reason,
        message=message.message,
    )
