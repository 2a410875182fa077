"""The checksum of a RankedSamplesChunk, as results.proto defines it; the server writes it and the client checks it."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import google_crc32c


def chunk_crc32c(
    *,
    query_id: str,
    first_rank: int,
    sample_ids: Sequence[str],
    scores: Sequence[float] | bytes,
    labels: Sequence[str],
    suggested_labels: Sequence[str] = (),
    suggested_probabilities: Sequence[float] | bytes = (),
) -> int:
    """CRC-32C over the columns of a chunk. Numbers may be given as they lie in memory: float64, little endian."""
    crc: int = google_crc32c.value(query_id.encode() + b"\0" + struct.pack("<q", first_rank))
    columns = (_text(sample_ids), _doubles(scores), _text(labels), _text(suggested_labels))
    for column in (*columns, _doubles(suggested_probabilities)):
        crc = google_crc32c.extend(crc, column)
    return crc


def _text(column: Sequence[str]) -> bytes:
    return ("\0".join(column) + "\0").encode() if column else b""


def _doubles(column: Sequence[float] | bytes) -> bytes:
    return column if isinstance(column, bytes) else struct.pack(f"<{len(column)}d", *column)
