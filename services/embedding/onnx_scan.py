"""What an ONNX file refers to, told from its bytes without loading it: external files and operator domains.

The protobuf wire format is walked in a memory map: tensors are skipped over, nothing is copied, and only the paths
below are descended. Every occurrence of a field counts, so whatever a parser makes of repeated fields, it cannot see a
reference that is not reported here. Field numbers are those of onnx.proto.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from eif_engine.errors import OnnxInvalid

if TYPE_CHECKING:
    from pathlib import Path

MAX_DEPTH = 64
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

_CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 8: "opset", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 9: "opset", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
    "opset": {},
    "entry": {},
}
_DOMAINS = {("node", 7), ("function", 10), ("opset", 1)}
_ENTRY_KEY, _ENTRY_VALUE = 1, 2


@dataclass
class OnnxReferences:
    """What the file refers to.

    Attributes:
        locations: `location` of every tensor with external data.
        domains: Of every operator, function and opset import; the default domain is the empty string.
    """

    locations: set[str] = field(default_factory=set)
    domains: set[str] = field(default_factory=set)


def scan(path: Path) -> OnnxReferences:
    """Walk the file.

    Raises:
        OnnxInvalid: It is empty or not in the protobuf wire format.
    """
    if path.stat().st_size == 0:
        raise OnnxInvalid(f"{path.name} is empty", file=path.name)
    with path.open("rb") as file:
        view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # unmapped when its last slice goes
    found = OnnxReferences()
    try:
        _walk(memoryview(view), found)
    except _Malformed as fault:
        raise OnnxInvalid(f"{path.name} is not an ONNX model: {fault}", file=path.name) from None
    return found


class _Malformed(Exception):
    """Not the wire format."""


def _walk(data: memoryview, found: OnnxReferences) -> None:
    todo: list[tuple[str, memoryview, int]] = [("model", data, 0)]
    while todo:
        kind, message, depth = todo.pop()
        if depth > MAX_DEPTH:
            raise _Malformed(f"graphs are nested more than {MAX_DEPTH} messages deep")
        if kind == "entry":
            _read_entry(message, found)
            continue
        children = _CHILDREN[kind]
        for number, value in _byte_fields(message):
            if number in children:
                todo.append((children[number], value, depth + 1))
            elif (kind, number) in _DOMAINS:
                found.domains.add(_text(value))


def _read_entry(message: memoryview, found: OnnxReferences) -> None:
    """One StringStringEntryProto of TensorProto.external_data. Repeated fields are all looked at."""
    fields = [(number, _text(value)) for number, value in _byte_fields(message)]
    if (_ENTRY_KEY, "location") in fields:
        found.locations.update(text for number, text in fields if number == _ENTRY_VALUE)


def _byte_fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The length-delimited fields of a message; others are stepped over."""
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        number, wire_type = tag >> 3, tag & 7
        if number == 0:
            raise _Malformed("a field has number 0")
        if wire_type == _BYTES:
            size, at = _varint(message, at)
            if size > end - at:
                raise _Malformed("it ends in the middle of a field (truncated?)")
            yield number, message[at : at + size]
            at += size
        else:
            at = _step_over(message, at, wire_type)


def _step_over(message: memoryview, at: int, wire_type: int) -> int:
    if wire_type == _VARINT:
        return _varint(message, at)[1]
    if wire_type not in {_FIXED64, _FIXED32}:
        raise _Malformed(f"wire type {wire_type} does not occur in ONNX")
    at += 8 if wire_type == _FIXED64 else 4
    if at > len(message):
        raise _Malformed("it ends in the middle of a field (truncated?)")
    return at


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise _Malformed("it ends in the middle of a number (truncated?)")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _Malformed("a number is longer than 10 bytes")


def _text(value: memoryview) -> str:
    if len(value) > 4096:
        raise _Malformed("a name is longer than 4096 bytes")
    return bytes(value).decode(errors="backslashreplace")
