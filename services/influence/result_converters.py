"""Between the protos of results and the domain."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import google_crc32c
from eif.influence.v1 import audit_pb2, results_pb2
from eif.influence.v1 import influence_service_pb2 as service_pb2

from services.common.checksum import chunk_crc32c
from services.influence.converters import read_count, read_job_name
from services.influence.enum_maps import ORDERS, TABLES
from services.influence.job_files import FileRequest, Part
from services.influence.names import invalid
from services.influence.result_service import Page, PageRequest, StreamRequest

if TYPE_CHECKING:  # pyarrow is imported with the first table that is asked for
    from services.influence.stream import RankedChunk

MAX_PAGE_BYTES = 3 << 20
"""A gRPC client takes 4 MiB in one message by default."""

Row = dict[str, Any]


def read_page_request(request: service_pb2.ListJobResultsRequest) -> PageRequest:
    """Which rows. Raises ARGUMENT_INVALID."""
    name = read_job_name(request.name)
    if request.table == results_pb2.RESULT_TABLE_UNSPECIFIED:
        raise invalid("table", "it is required: one of RESULT_TABLE_RANKING, _RELABEL, _PAIRS, _QUARANTINE")
    return PageRequest(
        name=name,
        table=TABLES.read(request.table, "table"),
        query_id=request.query_id,
        page_size=read_count(request.page_size, "page_size"),
        page_token=request.page_token,
    )


def read_stream_request(request: service_pb2.StreamRankedSamplesRequest) -> StreamRequest:
    """Which ranking. Raises ARGUMENT_INVALID."""
    return StreamRequest(
        name=read_job_name(request.name),
        query_id=request.query_id,
        helpful_first=ORDERS.read(request.order, "order") == "helpful_first",
        max_rows=read_count(request.max_rows, "max_rows"),
        chunk_rows=read_count(request.chunk_rows, "chunk_rows"),
        resume_token=request.resume_token,
    )


def write_page(page: Page) -> service_pb2.ListJobResultsResponse:
    """As many of the rows as fit into a message, and at least one; the token goes on after them."""
    write = _WRITERS[page.rows.name]
    response = service_pb2.ListJobResultsResponse(total_rows=page.rows.total)
    size = 0
    for values in page.rows.rows.to_pylist():
        row = write(values)
        size += row.ByteSize() + 8
        if response.rows and size > MAX_PAGE_BYTES:
            break
        response.rows.append(row)
    response.next_page_token = page.next_page_token(len(response.rows))
    return response


def write_chunk(chunk: RankedChunk, resume_token: str) -> results_pb2.RankedSamplesChunk:
    """A chunk with its checksum."""
    return results_pb2.RankedSamplesChunk(
        query_id=chunk.query_id,
        first_rank=chunk.first_rank,
        sample_ids=chunk.sample_ids,
        scores=chunk.scores.tolist(),
        labels=chunk.labels,
        suggested_labels=chunk.suggested_labels,
        suggested_probabilities=chunk.suggested_probabilities.tolist(),
        resume_token=resume_token,
        crc32c=chunk_crc32c(
            query_id=chunk.query_id,
            first_rank=chunk.first_rank,
            sample_ids=chunk.sample_ids,
            scores=chunk.scores.astype("<f8").tobytes(),
            labels=chunk.labels,
            suggested_labels=chunk.suggested_labels,
            suggested_probabilities=chunk.suggested_probabilities.astype("<f8").tobytes(),
        ),
        total_rows=chunk.total_rows,
        offset=chunk.offset,
    )


def _ranked(row: Row) -> results_pb2.ResultRow:
    return results_pb2.ResultRow(ranked=results_pb2.RankedSample(**row, effect=_effect(row["score"])))


def _effect(score: float) -> results_pb2.Effect.ValueType:
    if score > 0:
        return results_pb2.EFFECT_HARMFUL
    return results_pb2.EFFECT_HELPFUL if score < 0 else results_pb2.EFFECT_NEUTRAL


def _relabel(row: Row) -> results_pb2.ResultRow:
    names = ("neighbor_ids", "neighbor_labels", "neighbor_distances")
    neighbors = [
        results_pb2.Neighbor(sample_id=sample_id, label=label, distance=distance)
        for sample_id, label, distance in zip(*(row.pop(name) for name in names), strict=True)
    ]
    return results_pb2.ResultRow(relabel=results_pb2.RelabelSuggestion(**row, neighbors=neighbors))


_WRITERS: dict[str, Callable[[Row], results_pb2.ResultRow]] = {
    "ranking": _ranked,
    "relabel": _relabel,
    "pairs": lambda row: results_pb2.ResultRow(pair=results_pb2.QueryPair(**row)),
    "quarantine": lambda row: results_pb2.ResultRow(quarantined=results_pb2.QuarantinedSample(**row)),
}


def read_file_request(request: service_pb2.ReadJobFileRequest) -> FileRequest:
    """Which file, and from where on. Raises ARGUMENT_INVALID."""
    if not request.file:
        raise invalid("file", "it is required: a name among output.files of the job, or `<table>.parquet`")
    return FileRequest(name=read_job_name(request.name), file=request.file, offset=read_count(request.offset, "offset"))


def write_part(part: Part) -> audit_pb2.FileChunk:
    """Part of a file, with its checksum."""
    return audit_pb2.FileChunk(
        data=part.data,
        offset=part.offset,
        total_bytes=part.total_bytes,
        crc32c=google_crc32c.value(part.data),
        sha256=part.sha256,
    )
