from __future__ import annotations

import array
import struct
from typing import Any

import pytest

from services.common.checksum import chunk_crc32c

CHUNK: dict[str, Any] = {
    "query_id": "pair:a:ß",
    "first_rank": 1001,
    "sample_ids": ["s1", "s2", ""],
    "scores": [1.5, -0.0, 2.5e-300],
    "labels": ["a", "b", "ü"],
    "suggested_labels": ["b", "b", "a"],
    "suggested_probabilities": [0.5, 0.25, 1.0],
}


def slow_crc32c(data: bytes) -> int:
    """Bit by bit, from the polynomial of RFC 3720."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def bytes_of(chunk: dict[str, Any]) -> bytes:
    """The definition in results.proto, one value at a time."""
    data: bytes = chunk["query_id"].encode() + b"\0" + struct.pack("<q", chunk["first_rank"])
    for kind, name in (
        ("text", "sample_ids"),
        ("double", "scores"),
        ("text", "labels"),
        ("text", "suggested_labels"),
        ("double", "suggested_probabilities"),
    ):
        for value in chunk.get(name, ()):
            data += value.encode() + b"\0" if kind == "text" else struct.pack("<d", value)
    return data


def test_the_oracle_knows_the_check_value_of_crc32c() -> None:
    assert slow_crc32c(b"123456789") == 0xE3069283


def test_it_is_the_crc_of_the_columns_in_the_order_of_the_contract() -> None:
    assert chunk_crc32c(**CHUNK) == slow_crc32c(bytes_of(CHUNK))


def test_empty_columns_add_nothing() -> None:
    chunk = {key: CHUNK[key] for key in ("query_id", "first_rank", "sample_ids", "scores", "labels")}
    assert chunk_crc32c(**chunk) == slow_crc32c(bytes_of(chunk))


def test_numbers_as_they_lie_in_memory_give_the_same() -> None:
    packed = CHUNK | {"scores": array.array("d", CHUNK["scores"]).tobytes()}
    assert chunk_crc32c(**packed) == chunk_crc32c(**CHUNK)


OTHER: dict[str, Any] = {
    "query_id": "all",
    "first_rank": 1002,
    "sample_ids": ["s2", "s1", ""],
    "scores": [1.5, 0.0, 2.5e-300],
    "labels": ["a", "", "bü"],
    "suggested_labels": ["b", "b", "b"],
    "suggested_probabilities": [0.5, 0.25, 0.5],
}


@pytest.mark.parametrize("field", sorted(CHUNK))
def test_every_part_counts(field: str) -> None:
    assert chunk_crc32c(**(CHUNK | {field: OTHER[field]})) != chunk_crc32c(**CHUNK)
